"""The state of a batch of working sets: a few slots a sample, each holding an atom and its code."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import lasso_problem
from sae_gap.runtime import sharding
from sae_gap.solvers.screening import leaders
from sae_gap.solvers.spread_atoms import Held, Problem, correlate, hold

# The most violators that are let in in a round.
MOST_CANDIDATES = 64


class State(NamedTuple):
    """One sample a row. Slot w holds the atom `sign[w] atoms[index[w]]` with coefficient `code[w] ≥ 0`.

    `basic` are the slots in use, and `swept` the Gram matrix of their atoms swept on all of them; see `pivoting`. `theta` is
    the residual, to better than the precision of the codes, and the dual candidate. `candidate` names the leading violators,
    as `-1 - j` where the correlation is negative, and `lead` what they exceed their weights by, -inf where there is none.
    `size` is that of the linear terms, beside which rounding is told from a violation, `settled` counts the last rounds that
    left the basis as it was, and `stale` tells that `swept` has more rounding than is good.
    """

    signals: Float[Array, "n input_dim"]
    row: Float[Array, "n 1"]
    column: Float[Array, "n num_padded"] | None
    places: Int[Array, "n slots"]
    sign: Float[Array, "n slots"]
    code: Float[Array, "n slots"]
    weight: Float[Array, "n slots"]
    basic: Bool[Array, "n slots"]
    swept: Float[Array, "n slots slots"]
    theta: Float[Array, "n input_dim"]
    candidate: Int[Array, "n candidates"]
    lead: Float[Array, "n candidates"]
    size: Float[Array, " n"]
    scale: Float[Array, " n"]
    slack: Float[Array, " n"]
    rounds: Int[Array, " n"]
    settled: Int[Array, " n"]
    stale: Bool[Array, " n"]
    done: Bool[Array, " n"]
    full: Bool[Array, " n"]


def start(
    problem: Problem,
    signals: Float[Array, "n input_dim"],
    row: Float[Array, "n 1"],
    column: Float[Array, "n num_latents"] | None,
    init: Float[Array, "n num_latents"] | None,
    num_slots: int,
) -> State:
    """Samples with empty slots, whose first candidates are the atoms of the largest codes of `init`."""
    num_samples, dtype = signals.shape[0], signals.dtype
    zeros = jnp.zeros((num_samples, num_slots), dtype)
    none = jnp.zeros(num_samples, bool)
    count = num_candidates(problem, num_slots)
    state = State(
        signals=signals,
        row=row,
        column=None if column is None else _whole_blocks(problem, column),
        places=zeros.astype(jnp.int32),
        sign=zeros + 1,
        code=zeros,
        weight=zeros,
        basic=zeros > 0,
        swept=jnp.broadcast_to(jnp.eye(num_slots, dtype=dtype), (num_samples, num_slots, num_slots)),
        theta=signals,
        candidate=jnp.zeros((num_samples, count), jnp.int32),
        lead=jnp.full((num_samples, count), -jnp.inf, dtype),
        size=jnp.sqrt(jnp.sum(signals**2, axis=1)),
        scale=zeros[:, 0],
        slack=zeros[:, 0],
        rounds=jnp.zeros(num_samples, jnp.int32),
        settled=jnp.zeros(num_samples, jnp.int32),
        stale=none,
        done=none,
        full=none,
    )
    if init is None:
        return state
    if problem.latents is None:
        given, chosen = lax.top_k(jnp.abs(init), min(count, init.shape[1]))
        chosen = jnp.pad(chosen.astype(jnp.int32), ((0, 0), (0, count - chosen.shape[1])))
        given = jnp.pad(given, ((0, 0), (0, count - given.shape[1])))
    else:
        # The largest of all would have to be sought on one device.
        sizes = _whole_blocks(problem, jnp.abs(init))
        chosen = leaders(sizes, problem.num_blocks, count)
        given = jnp.take_along_axis(sizes, chosen, axis=1)
    pull = correlate(hold(problem, chosen), signals)
    excess = (pull if problem.nonneg else jnp.abs(pull)) - weights_at(problem, state, chosen)
    signed = chosen if problem.nonneg else jnp.where(pull < 0, -1 - chosen, chosen)
    return state._replace(candidate=signed, lead=jnp.where(given > 0, excess, -jnp.inf))


def _whole_blocks(problem, values):
    """Values of each sample for all atoms, those that fill up the blocks included."""
    padded = jnp.pad(values, ((0, 0), (0, problem.atoms.shape[0] - values.shape[1])))
    return sharding.spread(padded, problem.latents, 1)


def empty(state: State) -> State:
    """The samples with all slots empty, as at the start."""
    eye = jnp.eye(state.code.shape[1], dtype=state.code.dtype)
    return state._replace(
        sign=jnp.ones_like(state.sign),
        code=jnp.zeros_like(state.code),
        basic=jnp.zeros_like(state.basic),
        swept=jnp.broadcast_to(eye, state.swept.shape),
        theta=state.signals,
        settled=jnp.zeros_like(state.settled),
        stale=jnp.zeros_like(state.stale),
    )


def num_candidates(problem: Problem, num_slots: int) -> int:
    """Violators that are looked for in a round: as many as half the slots, but not so many as to cost more than they bring."""
    return min(num_slots // 2, MOST_CANDIDATES, problem.num_blocks)


def widen(problem: Problem, state: State, num_slots: int) -> State:
    """Add empty slots up to `num_slots`."""
    spare = ((0, 0), (0, num_slots - state.code.shape[1]))
    more = ((0, 0), (0, num_candidates(problem, num_slots) - state.candidate.shape[1]))
    fresh = jnp.eye(num_slots, dtype=state.code.dtype).at[: state.code.shape[1], : state.code.shape[1]].set(0)
    return state._replace(
        places=jnp.pad(state.places, spare),
        sign=jnp.pad(state.sign, spare, constant_values=1),
        code=jnp.pad(state.code, spare),
        weight=jnp.pad(state.weight, spare),
        basic=jnp.pad(state.basic, spare),
        swept=jnp.pad(state.swept, (*spare, spare[1])) + fresh,
        candidate=jnp.pad(state.candidate, more),
        lead=jnp.pad(state.lead, more, constant_values=-jnp.inf),
        full=jnp.zeros_like(state.full),
    )


def merge(
    places: Int[Array, "n slots"],
    sign: Float[Array, "n slots"],
    used: Bool[Array, "n slots"],
    candidate: Int[Array, "n candidates"],
    lead: Float[Array, "n candidates"],
) -> tuple[Int[Array, "n slots"], Float[Array, "n slots"], Float[Array, "n slots"], Bool[Array, "n slots candidates"]]:
    """Keep the slots in use and fill the free ones with the leading violators, those whose lead is not -inf.

    Returns:
      The atoms and signs of the slots, the lead of those that are new, and which candidate each of these holds.
    """
    atom = jnp.where(candidate < 0, -1 - candidate, candidate)
    repeated = jnp.any((atom[:, :, None] == places[:, None, :]) & used[:, None, :], axis=2)
    # The count of free slots up to each one, as a product: a cumulative sum would run one row at a time.
    upto = jnp.triu(jnp.ones((used.shape[1], used.shape[1]), lead.dtype))
    rank = jnp.matmul((~used).astype(lead.dtype), upto).astype(jnp.int32) - 1
    seat = jnp.clip(rank, 0, candidate.shape[1] - 1)
    fresh = jnp.take_along_axis(jnp.where(repeated, -jnp.inf, lead), seat, axis=1)
    entrant = jnp.take_along_axis(candidate, seat, axis=1)
    new = ~used & (rank < candidate.shape[1]) & (fresh > -jnp.inf)
    places = jnp.where(used, places, jnp.where(new, jnp.where(entrant < 0, -1 - entrant, entrant), 0))
    sign = jnp.where(used, sign, jnp.where(new & (entrant < 0), -1, 1))
    holds = new[:, :, None] & (seat[:, :, None] == jnp.arange(candidate.shape[1]))
    return places, sign, fresh, holds


def sweep(
    problem: Problem,
    state: State,
    held: Held,
    sign: Float[Array, "n slots"],
    holds: Bool[Array, "n slots candidates"],
) -> tuple[Float[Array, "n slots slots"], Float[Array, "n slots"]]:
    """The Gram matrix of all slots, the new ones included, swept on the basis, and the squared norms of the atoms `held`.

    With B the basis, N the new slots and G the Gram matrix, it holds `-G_BB⁻¹`, `G_BB⁻¹ G_BN` and
    `G_NN - G_NB G_BB⁻¹ G_BN`. An empty slot is orthogonal to all others.
    """
    enter = holds.astype(state.code.dtype)
    atom = jnp.where(state.candidate < 0, -1 - state.candidate, state.candidate)
    side = jnp.where(state.candidate < 0, -1, 1).astype(enter.dtype)
    if problem.gram is not None:
        among = problem.gram[held.places[:, :, None], atom[:, None, :]]
    else:
        new = hold(problem, atom, often=True)
        among = jnp.einsum("nwm,ncm->nwc", held.all(), new.all(), precision=lax.Precision.HIGHEST)
    if not problem.nonneg:
        among = sign[:, :, None] * side[:, None, :] * among
    both = state.basic[:, :, None] & state.basic[:, None, :]
    old = jnp.where(both, state.swept, 0)
    solved = -lasso_problem.product(old, jnp.where(state.basic[:, :, None], among, 0))
    # The columns of new slots are those of `solved`, whose rows off the basis are zero, and between two of them of `rest`.
    rest = lasso_problem.product(jnp.swapaxes(enter - solved, 1, 2), among)
    corner = lasso_problem.product(solved + lasso_problem.product(enter, 0.5 * rest), jnp.swapaxes(enter, 1, 2))
    filled = state.basic | jnp.any(holds, axis=2)
    empty = jnp.where(filled[:, :, None], 0, jnp.eye(sign.shape[1], dtype=enter.dtype))
    return old + corner + jnp.swapaxes(corner, 1, 2) + empty, problem.norms[held.places]


def refresh(problem: Problem, state: State) -> Float[Array, "n slots slots"]:
    """The tableau with less rounding in it, of which every sweep leaves some: a step of Newton's for the inverse.

    With G the Gram matrix of the basis and X the inverse that the tableau holds, the error of `X + X (I - G X)` is the
    square of that of X.

    References:
      Schulz (1933), "Iterative Berechnung der reziproken Matrix", ZAMM 13(1).
    """
    both = state.basic[:, :, None] & state.basic[:, None, :]
    if problem.gram is not None:
        among = problem.gram[state.places[:, :, None], state.places[:, None, :]]
    else:
        atoms = hold(problem, state.places, often=True).all()
        among = jnp.einsum("nwm,nvm->nwv", atoms, atoms, precision=lax.Precision.HIGHEST)
    if not problem.nonneg:
        among = state.sign[:, :, None] * state.sign[:, None, :] * among
    inverse = jnp.where(both, -state.swept, 0)
    left = jnp.eye(both.shape[1], dtype=inverse.dtype) - lasso_problem.product(jnp.where(both, among, 0), inverse)
    step = lasso_problem.product(inverse, jnp.where(both, left, 0))
    return jnp.where(both, state.swept - 0.5 * (step + jnp.swapaxes(step, 1, 2)), state.swept)


def weights_at(problem: Problem, state: State, places: Int[Array, "n some"]) -> Float[Array, "n some"]:
    """The weights of given atoms."""
    if state.column is not None:
        return state.row * jnp.take_along_axis(state.column, places, axis=1)
    return state.row * problem.column[0, places]


def dense(problem: Problem, state: State, num_latents: int) -> Float[Array, "n num_latents"]:
    """The codes of all atoms."""
    rows = jnp.arange(state.code.shape[0])[:, None]
    codes = sharding.spread(jnp.zeros((state.code.shape[0], num_latents), state.code.dtype), problem.latents, 1)
    # Slots may point at the padding, but never with a code.
    return sharding.spread(codes.at[rows, state.places].add(state.sign * state.code, mode="drop"), problem.latents, 1)
