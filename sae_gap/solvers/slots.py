"""The state of a batch of working sets: a few slots a sample, each holding an atom and its code."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap import lasso

# A Gram matrix of all atoms costs `num_latents / n` products, and beyond this many atoms it would not stay in cache.
LARGEST_GRAM = 4096


class Problem(NamedTuple):
    """What all samples share: atoms as rows, padded to whole blocks, and their Gram matrix where that is cheap.

    The weight of sample i and atom j is ``row_i column_j``, with `row` and `column` those of the `State` where it has its own.
    """

    atoms: Float[Array, "num_padded input_dim"]
    column: Float[Array, "1 num_padded"]
    gram: Float[Array, "num_padded num_padded"] | None
    tol: Float[Array, ""]
    limit: Int[Array, ""]
    num_blocks: int
    nonneg: bool


class State(NamedTuple):
    """One sample a row. Slot w holds the atom ``sign[w] atoms[index[w]]`` with coefficient ``code[w] >= 0``.

    `theta` is the residual, to better than the precision of the codes, and the dual candidate. `candidate` names the leading
    violators, as ``-1 - j`` where the correlation is negative; `lead` and `excess` are what candidates and slots exceed their
    weights by.
    """

    signals: Float[Array, "n input_dim"]
    row: Float[Array, "n 1"]
    column: Float[Array, "n num_padded"] | None
    places: Int[Array, "n slots"]
    sign: Float[Array, "n slots"]
    code: Float[Array, "n slots"]
    weight: Float[Array, "n slots"]
    excess: Float[Array, "n slots"]
    theta: Float[Array, "n input_dim"]
    candidate: Int[Array, "n candidates"]
    lead: Float[Array, "n candidates"]
    scale: Float[Array, " n"]
    slack: Float[Array, " n"]
    rounds: Int[Array, " n"]
    done: Bool[Array, " n"]
    full: Bool[Array, " n"]


def start(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    lam: Float[Array, "rows columns"],
    init: Float[Array, "n num_latents"] | None,
    *,
    atom_weights: Float[Array, "1 num_latents"] | None,
    tol: Float[Array, ""] | float,
    limit: Int[Array, ""],
    nonneg: bool,
    num_slots: int,
    num_candidates: int,
) -> tuple[Problem, State]:
    """Set a problem up, with slots that are empty or hold the largest codes of `init`."""
    num_samples, num_latents = signals.shape[0], dictionary.shape[1]
    num_blocks = 16 * num_candidates
    spare = -num_latents % num_blocks
    atoms = jnp.pad(dictionary.T, ((0, spare), (0, 0)))
    column = jnp.ones((1, num_latents), signals.dtype) if atom_weights is None else atom_weights
    row, full = (lam, None) if lam.shape[1] == 1 else (jnp.ones((1, 1), signals.dtype), lam * column)
    if full is not None and full.shape[0] == 1:
        column, full = full, None
    problem = Problem(
        atoms=atoms,
        column=jnp.pad(column, ((0, 0), (0, spare))),
        gram=lasso.product(atoms, atoms.T) if atoms.shape[0] <= min(LARGEST_GRAM, 2 * num_samples) else None,
        tol=jnp.asarray(tol, signals.dtype),
        limit=limit,
        num_blocks=num_blocks,
        nonneg=nonneg,
    )
    zeros = jnp.zeros((num_samples, num_slots), signals.dtype)
    nothing = jnp.zeros((num_samples, num_candidates), signals.dtype)
    state = State(
        signals=signals,
        row=jnp.broadcast_to(row, (num_samples, 1)),
        column=None if full is None else jnp.pad(full, ((0, 0), (0, spare))),
        places=zeros.astype(jnp.int32),
        sign=zeros + 1,
        code=zeros,
        weight=zeros,
        excess=zeros,
        theta=signals,
        candidate=nothing.astype(jnp.int32),
        lead=nothing,
        scale=zeros[:, 0],
        slack=zeros[:, 0],
        rounds=jnp.zeros(num_samples, jnp.int32),
        done=jnp.zeros(num_samples, bool),
        full=jnp.zeros(num_samples, bool),
    )
    if init is None:
        return problem, state
    size, chosen = lax.top_k(jnp.abs(init), min(num_slots // 2, num_latents))
    width = chosen.shape[1]
    places = state.places.at[:, :width].set(chosen)
    code = state.code.at[:, :width].set(size)
    sign = state.sign.at[:, :width].set(jnp.where(jnp.take_along_axis(init, chosen, axis=1) < 0, -1, 1))
    theta = signals - combine(problem, places, sign * code)
    weight = weights_at(problem, state, places)
    return problem, state._replace(places=places, code=code, sign=sign, theta=theta, weight=weight)


def widen(state: State, num_slots: int) -> State:
    """Add empty slots up to `num_slots`."""
    spare = ((0, 0), (0, num_slots - state.code.shape[1]))
    return state._replace(
        places=jnp.pad(state.places, spare),
        sign=jnp.pad(state.sign, spare, constant_values=1),
        code=jnp.pad(state.code, spare),
        weight=jnp.pad(state.weight, spare),
        excess=jnp.pad(state.excess, spare),
        full=jnp.zeros_like(state.full),
    )


def merge(
    places: Int[Array, "n slots"],
    sign: Float[Array, "n slots"],
    code: Float[Array, "n slots"],
    candidate: Int[Array, "n candidates"],
    lead: Float[Array, "n candidates"],
) -> tuple[Int[Array, "n slots"], Float[Array, "n slots"], Float[Array, "n slots"], Bool[Array, "n slots"]]:
    """Keep the slots in use and fill the free ones with the leading violators: (places, sign, lead where new, new)."""
    used = code > 0
    atom = jnp.where(candidate < 0, -1 - candidate, candidate)
    repeated = jnp.any((atom[:, :, None] == places[:, None, :]) & used[:, None, :], axis=2)
    fresh = jnp.where(repeated, -1, lead)
    # The count of free slots up to each one, as a product: a cumulative sum would run one row at a time.
    upto = jnp.triu(jnp.ones((used.shape[1], used.shape[1]), code.dtype))
    rank = jnp.matmul((~used).astype(code.dtype), upto).astype(jnp.int32) - 1
    seat = jnp.clip(rank, 0, candidate.shape[1] - 1)
    lead = jnp.take_along_axis(fresh, seat, axis=1)
    entrant = jnp.take_along_axis(candidate, seat, axis=1)
    new = ~used & (rank < candidate.shape[1]) & (lead > 0)
    places = jnp.where(used, places, jnp.where(new, jnp.where(entrant < 0, -1 - entrant, entrant), 0))
    sign = jnp.where(used, sign, jnp.where(new & (entrant < 0), -1, 1))
    return places, sign, lead, new


def combine(problem: Problem, places: Int[Array, "n slots"], weights: Float[Array, "n slots"]) -> Float[Array, "n input_dim"]:
    """Weighted sum of each sample's atoms. A loop of row gathers stays in cache where one gather of all slots would not."""

    def add(w, total):
        return total + weights[:, w, None] * problem.atoms[places[:, w]]

    return lax.fori_loop(0, places.shape[1], add, jnp.zeros((places.shape[0], problem.atoms.shape[1]), weights.dtype))


def residual(
    problem: Problem, signals: Float[Array, "n input_dim"], places: Int[Array, "n slots"], weights: Float[Array, "n slots"]
) -> Float[Array, "n input_dim"]:
    """Signals less the weighted sum of each sample's atoms, with the roundoff of every subtraction added up and put back."""

    def subtract(w, carry):
        total, lost = carry
        term = -weights[:, w, None] * problem.atoms[places[:, w]]
        new = total + term
        grown = new - total
        return new, lost + ((total - (new - grown)) + (term - grown))

    total, lost = lax.fori_loop(0, places.shape[1], subtract, (signals, jnp.zeros_like(signals)))
    return total + lost


def correlate(problem: Problem, places: Int[Array, "n slots"], theta: Float[Array, "n input_dim"]) -> Float[Array, "n slots"]:
    """Correlation of theta with each slot's atom, disregarding its sign."""
    # A product with ones vectorises; the plain sum along contiguous memory would not.
    ones = jnp.ones(theta.shape[1], theta.dtype)

    def fill(w, out):
        return out.at[:, w].set(lasso.product(problem.atoms[places[:, w]] * theta, ones))

    return lax.fori_loop(0, places.shape[1], fill, jnp.zeros(places.shape, theta.dtype))


def gram(
    problem: Problem, places: Int[Array, "n slots"], sign: Float[Array, "n slots"], filled: Bool[Array, "n slots"]
) -> Float[Array, "n slots slots"]:
    """Gram matrix of each sample's slots; an empty one is orthogonal to all others."""
    if problem.gram is not None:
        values = problem.gram[places[:, :, None], places[:, None, :]]
    else:
        atoms = problem.atoms[places]
        values = jnp.einsum("nwm,nvm->nwv", atoms, atoms, precision=lax.Precision.HIGHEST)
    if not problem.nonneg:
        values = sign[:, :, None] * sign[:, None, :] * values
    eye = jnp.eye(places.shape[1], dtype=values.dtype)
    return jnp.where(filled[:, :, None] & filled[:, None, :], values, eye)


def weights_at(problem: Problem, state: State, places: Int[Array, "n some"]) -> Float[Array, "n some"]:
    """The weights of given atoms."""
    if state.column is not None:
        return state.row * jnp.take_along_axis(state.column, places, axis=1)
    return state.row * problem.column[0, places]


def dense(state: State, num_latents: int) -> Float[Array, "n num_latents"]:
    """The codes of all atoms."""
    rows = jnp.arange(state.code.shape[0])[:, None]
    codes = jnp.zeros((state.code.shape[0], num_latents), state.code.dtype)
    # Slots may point at the padding, but never with a code.
    return codes.at[rows, state.places].add(state.sign * state.code, mode="drop")
