"""Exact working sets: a lasso on a handful of atoms a sample, grown by the atoms that violate optimality until none does.

One product with the dictionary finds the violators of every sample and certifies those that have none. Between two products, each
sample solves its own small problem exactly by `pivoting`, on a set of slots that holds its support and the newest violators. Few
samples need more than three products. Those that do are gathered into smaller batches, and the rare ones whose support outgrows
their slots, or whose atoms are dependent, are handed to FISTA.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap import lasso
from sae_gap.solvers import fista, pivoting
from sae_gap.types import Solution

# Rows of this many floats fill the vector registers of every current processor evenly.
LANES = 16
# A Gram matrix of all atoms costs `num_latents` / n products; beyond this many atoms it would not stay in cache either.
LARGEST_GRAM = 4096
GROUPS = 2
MAX_ROUNDS = 12
# Below this many samples a plain loop costs less than the compilation of the stages that save work on large batches.
SMALL_BATCH = 512
LARGEST_SLOTS = 256


class _Problem(NamedTuple):
    """What all samples share: atoms as rows, padded to whole blocks, and the Gram matrix where it is cheap."""

    atoms: Float[Array, "num_padded input_dim"]
    column: Float[Array, "1 num_padded"]
    gram: Float[Array, "num_padded num_padded"] | None
    tol: Float[Array, ""]
    limit: Int[Array, ""]
    num_blocks: int
    nonneg: bool


class _State(NamedTuple):
    """One sample a row. Slot w of a sample holds the atom `index[w]`, times `sign[w]`, with coefficient ``code[w] >= 0``."""

    signals: Float[Array, "n input_dim"]
    row: Float[Array, "n 1"]
    column: Float[Array, "n num_padded"] | None
    index: Int[Array, "n slots"]
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


def default_slots(input_dim: int, num_latents: int) -> int:
    """Slots that hold the support of a sample with room for new violators.

    The count is about twice the largest support k that compressed sensing allows, ``input_dim = 2 k ln(num_latents / k)``.
    """
    support = 1.0
    for _ in range(20):
        support = input_dim / (2 * max(1.0, math.log(num_latents / support)))
    return LANES * max(2, math.ceil(2.2 * support / LANES))


def default_chunk(input_dim: int, num_latents: int) -> int:
    """Samples whose correlations and tableaus take a quarter of a gigabyte."""
    return max(16, 2**26 // max(num_latents, default_slots(input_dim, num_latents) ** 2))


def solve(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    lam: Float[Array, "..."] | float,
    init: Float[Array, "n num_latents"] | None = None,
    *,
    tol: Float[Array, ""] | float = 1e-6,
    max_iterations: Int[Array, ""] | int = 20_000,
    nonneg: bool = True,
    atom_weights: Float[Array, "1 num_latents"] | None = None,
) -> Solution:
    """Solve the lasso by exact working sets; atoms should be of about unit norm.

    Like every solver's core it checks nothing on the host and may be called inside any transformation of JAX except
    reverse-mode differentiation, for which see `sae_gap.solvers.sparse_code`.

    Args:
      signals: ``(n, input_dim)``.
      dictionary: ``(input_dim, num_latents)``.
      lam: scalar, ``(n,)``, ``(num_latents,)`` or broadcasting to ``(n, num_latents)``.
      init: ``(n, num_latents)`` codes whose largest entries open the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: iterations of FISTA for the samples that are left to it.
      nonneg: whether codes are constrained to be non-negative.
      atom_weights: ``(1, num_latents)`` factors on `lam`, so that neither need be expanded to ``(n, num_latents)``.

    Returns:
      A `Solution`; its `iterations` count products with the dictionary.

    References:
      Johnson & Guestrin (2015), "Blitz: a principled meta-algorithm for scaling sparse optimization", ICML.
    """
    num_samples, num_latents = signals.shape[0], dictionary.shape[1]
    lam = lasso.expand_lam(lam, num_samples, num_latents)
    slots = default_slots(*dictionary.shape)
    count = slots // 2
    most = LANES * -(-(min(dictionary.shape) + LANES) // LANES)
    staged = num_samples > SMALL_BATCH
    group = -(-num_samples // 8) if staged else num_samples
    if not staged and most <= 2 * slots:
        slots = most
    opening = count if staged and init is None else slots
    limit = jnp.asarray(max_iterations, jnp.int32)
    problem, state = _open(signals, dictionary, lam, init, tol, limit, nonneg, atom_weights, opening, count)
    state = _measure(problem, state)
    if opening < slots:
        # At first all slots are new candidates, which are half as many.
        state = _widen(_round(problem, state, count + 4), slots)
    state = _rounds(problem, state, group, MAX_ROUNDS)
    if slots < most <= LARGEST_SLOTS:
        state = _rounds(problem, _widen(state, most), group, 2 * MAX_ROUNDS)
    value, gap = _certify(problem, state)
    codes = _dense(problem, state, num_latents)
    found = Solution(codes, value, gap, state.rounds - 1, lasso.is_converged(signals, value, gap, tol))
    return _finish(problem, dictionary, state, found, group)


def _finish(problem, dictionary, state, found, group):
    """Hand the samples that are left to FISTA, from where they are."""

    def step(part):
        _, signals, row, column, found = part
        solved = fista.solve(
            signals,
            dictionary,
            (row * (problem.column if column is None else column))[:, : dictionary.shape[1]],
            found.codes,
            tol=problem.tol,
            max_iterations=problem.limit,
            nonneg=problem.nonneg,
        )
        solved = eqx.tree_at(lambda s: s.iterations, solved, found.iterations + solved.iterations)
        return jnp.zeros_like(solved.converged), signals, row, column, solved

    left = ~found.converged & (found.iterations < problem.limit)
    return _by_groups((left, state.signals, state.row, state.column, found), lambda tree: tree[0], group, step)[4]


def _open(signals, dictionary, lam, init, tol, limit, nonneg, atom_weights, slots, count):
    num_samples, (input_dim, num_latents) = signals.shape[0], dictionary.shape
    num_blocks = 16 * count
    padded = -(-num_latents // num_blocks) * num_blocks
    spare = padded - num_latents
    atoms = jnp.pad(dictionary.T, ((0, spare), (0, 0)))
    ones = jnp.ones((1, num_latents), signals.dtype)
    column = ones if atom_weights is None else atom_weights
    row, full = (lam, None) if lam.shape[1] == 1 else (jnp.ones((1, 1), signals.dtype), lam)
    if full is not None and full.shape[0] == 1:
        column, full = column * full, None
    elif full is not None:
        full = jnp.pad(full * column, ((0, 0), (0, spare)))
    gram = lasso.product(atoms, atoms.T) if padded <= min(LARGEST_GRAM, 2 * num_samples) else None
    problem = _Problem(atoms, jnp.pad(column, ((0, 0), (0, spare))), gram, jnp.asarray(tol, signals.dtype), limit, num_blocks, nonneg)
    zeros = jnp.zeros((num_samples, slots), signals.dtype)
    state = _State(
        signals=signals,
        row=jnp.broadcast_to(row, (num_samples, 1)),
        column=full,
        index=jnp.zeros((num_samples, slots), jnp.int32),
        sign=zeros + 1,
        code=zeros,
        weight=zeros,
        excess=zeros,
        theta=signals,
        candidate=jnp.zeros((num_samples, count), jnp.int32),
        lead=zeros[:, :count],
        scale=zeros[:, 0],
        slack=zeros[:, 0],
        rounds=jnp.zeros(num_samples, jnp.int32),
        done=jnp.zeros(num_samples, bool),
    )
    if init is not None:
        size, index = lax.top_k(jnp.abs(init), min(slots // 2, num_latents))
        width = index.shape[1]
        index = state.index.at[:, :width].set(index)
        code = state.code.at[:, :width].set(size)
        sign = jnp.where(jnp.take_along_axis(init, index, axis=1) < 0, -1, 1).astype(signals.dtype)
        rest = signals - _combine(problem, index, sign * code)
        state = state._replace(weight=_weights_at(problem, state, index), index=index, code=code, sign=sign, theta=rest)
    return problem, state


def _widen(state, slots):
    """Add empty slots."""
    spare = ((0, 0), (0, slots - state.code.shape[1]))
    return state._replace(
        index=jnp.pad(state.index, spare),
        sign=jnp.pad(state.sign, spare, constant_values=1),
        code=jnp.pad(state.code, spare),
        weight=jnp.pad(state.weight, spare),
        excess=jnp.pad(state.excess, spare),
    )


def _combine(problem, index, weights):
    """Sum of the slots' atoms; a loop of row gathers stays in cache where one gather of all slots would not."""

    def add(w, total):
        return total + weights[:, w, None] * problem.atoms[index[:, w]]

    return lax.fori_loop(0, index.shape[1], add, jnp.zeros((index.shape[0], problem.atoms.shape[1]), weights.dtype))


def _correlate(problem, index, theta):
    """Correlation of theta with each slot's atom."""

    def fill(w, out):
        return out.at[:, w].set(jnp.sum(problem.atoms[index[:, w]] * theta, axis=1))

    return lax.fori_loop(0, index.shape[1], fill, jnp.zeros(index.shape, theta.dtype))


def _weights_at(problem, state, index):
    if state.column is not None:
        return state.row * jnp.take_along_axis(state.column, index, axis=1)
    return state.row * problem.column[0, index]


def _measure(problem: _Problem, state: _State) -> _State:
    """One product with the dictionary: certify every sample and find the atoms that most violate optimality."""
    nonneg = problem.nonneg
    correlations = lasso.product(state.theta, problem.atoms.T)
    pull = correlations if nonneg else jnp.abs(correlations)
    limit = state.row * (problem.column if state.column is None else state.column)
    scale = lasso.dual_scale(correlations, limit, nonneg=nonneg)
    here = state.sign * jnp.take_along_axis(correlations, state.index, axis=1)
    excess = here - state.weight
    slack = jnp.sum(jnp.maximum(state.code * (state.weight - scale[:, None] * here), 0), axis=1)
    energy = 0.5 * jnp.sum(state.theta**2, axis=1)
    value = energy + jnp.sum(state.weight * state.code, axis=1)
    gap = (1 - scale) ** 2 * energy + slack
    candidate, lead = _leaders(jnp.maximum(pull - limit, 0), problem.num_blocks, state.candidate.shape[1])
    turned = jnp.take_along_axis(correlations, candidate, axis=1) < 0
    return state._replace(
        excess=excess,
        candidate=jnp.where(turned & (not nonneg), -1 - candidate, candidate),
        lead=lead,
        scale=scale,
        slack=slack,
        rounds=state.rounds + 1,
        # Half the tolerance at first, so that a gap recomputed from the rounded codes meets it too.
        done=lasso.is_converged(state.signals, value, gap, jnp.where(state.rounds < 6, 0.5, 1) * problem.tol)
        | ~jnp.isfinite(gap)
        | (state.rounds >= problem.limit),
    )


def _leaders(scores, num_blocks, count):
    """The largest of each of `num_blocks` interleaved blocks, and of these about the `count` largest: (indices, scores).

    A non-negative float orders like its bits, so the position of an entry can ride in its lowest bits through a plain maximum,
    which vectorises where an argmax or a sort does not. The scores lose those bits. The blocks play off in `GROUPS` groups, each
    of which sends the same number of winners.
    """
    num_samples, num_latents = scores.shape
    rows, seats = num_latents // num_blocks, num_blocks // GROUPS
    whole = jnp.int32 if scores.dtype == jnp.float32 else jnp.int64
    bits = lax.bitcast_convert_type(scores, whole).reshape(num_samples, rows, num_blocks)
    best = jnp.max(_tag(bits, jnp.arange(rows, dtype=whole)[:, None], rows), axis=1)
    # Samples last, so that every step runs along contiguous memory.
    field = _tag(best.T.reshape(seats, GROUPS, num_samples), jnp.arange(seats, dtype=whole)[:, None, None], seats)
    winners = []
    for _ in range(count // GROUPS):
        top = jnp.max(field, axis=0)
        winners.append(top)
        field = jnp.where(field == top, 0, field)
    won = jnp.stack(winners)
    block = (won & _mask(seats)) * GROUPS + jnp.arange(GROUPS, dtype=whole)[:, None]
    block = block.reshape(-1, num_samples).T.astype(jnp.int32)
    row = jnp.take_along_axis(best, block, axis=1) & _mask(rows)
    lead = lax.bitcast_convert_type(won & ~_mask(seats), scores.dtype).reshape(-1, num_samples).T
    return (row * num_blocks + block).astype(jnp.int32), lead


def _mask(size):
    return (1 << (size - 1).bit_length()) - 1


def _tag(bits, position, size):
    return (bits & ~_mask(size)) | position


def _merge(problem, state):
    """Keep the slots in use and fill the free ones with the leading violators."""
    used = state.code > 0
    turned = state.candidate < 0
    candidate = jnp.where(turned, -1 - state.candidate, state.candidate)
    repeated = jnp.any((candidate[:, :, None] == state.index[:, None, :]) & used[:, None, :], axis=2)
    fresh = (state.lead > 0) & ~repeated
    slots = used.shape[1]
    upto = jnp.tril(jnp.ones((slots, slots), state.code.dtype))
    rank = jnp.matmul((~used).astype(state.code.dtype), upto.T).astype(jnp.int32) - 1
    place = jnp.clip(rank, 0, candidate.shape[1] - 1)
    filled = ~used & (rank < candidate.shape[1]) & jnp.take_along_axis(fresh, place, axis=1)
    sign = jnp.where(jnp.take_along_axis(turned, place, axis=1), -1, 1).astype(state.code.dtype)
    index = jnp.where(used, state.index, jnp.where(filled, jnp.take_along_axis(candidate, place, axis=1), 0))
    lead = jnp.take_along_axis(state.lead, place, axis=1)
    return (
        index,
        jnp.where(used, state.sign, jnp.where(filled, sign, 1)),
        jnp.where(used, state.excess, jnp.where(filled, lead, -1)),
        used | filled,
    )


def _round(problem: _Problem, state: _State, max_pivots: int) -> _State:
    """Solve every sample on its slots, then measure; finished samples keep what they have."""
    index, sign, excess, filled = _merge(problem, state)
    if problem.gram is not None:
        gram = problem.gram[index[:, :, None], index[:, None, :]]
    else:
        atoms = problem.atoms[index]
        gram = jnp.einsum("nwm,nvm->nwv", atoms, atoms, precision=lax.Precision.HIGHEST)
    both = filled[:, :, None] & filled[:, None, :]
    if problem.nonneg:
        gram = jnp.where(both, gram, jnp.eye(index.shape[1], dtype=gram.dtype))
    else:
        gram = jnp.where(both, sign[:, :, None] * sign[:, None, :] * gram, jnp.eye(index.shape[1], dtype=gram.dtype))

    linear = jnp.where(filled, excess + jnp.sum(gram * state.code[:, :, None], axis=1), -1)
    code, swept, basic = pivoting.solve(gram, linear, max_pivots=max_pivots)
    weight = _weights_at(problem, state, index)
    moved = jnp.where(filled, code - state.code, 0)
    theta = state.theta - _combine(problem, index, sign * moved)
    # The pivots' roundoff, and that of a long move, is removed by a step of refinement with freshly measured correlations. It is
    # carried by theta at full precision, even where it is below what the code can store.
    wrong = jnp.where(basic, sign * _correlate(problem, index, theta) - weight, 0)
    fix = jnp.where(basic, -jnp.sum(swept * wrong[:, :, None], axis=1), 0)
    new = jnp.maximum(code + fix, 0)
    fix = jnp.where(code + fix > 0, fix, -code)
    theta = theta - _combine(problem, index, sign * fix)
    moved = state._replace(index=index, sign=sign, code=new, weight=weight, theta=theta)
    return _keep(state.done, state, _measure(problem, moved))


def _keep(done, old, new):
    def pick(a, b):
        return jnp.where(done.reshape(done.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, old, new)


def _rounds(problem, state, group, most):
    """Repeat rounds on whatever samples need them, `group` at a time, until each is done, is out of slots, or has had `most`."""

    def pending(state):
        return ~state.done & (state.rounds <= most) & ~jnp.all(state.code > 0, axis=1)

    return _by_groups(state, pending, group, lambda part: _round(problem, part, 4 * part.code.shape[1]))


def _by_groups(tree, pending, group, step):
    """Apply `step` to the first `group` samples that are pending, gathered into a batch of their own, until none is."""

    def body(tree):
        wanted = pending(tree)
        chosen = jnp.nonzero(wanted, size=group, fill_value=0)[0]
        part = step(jax.tree.map(lambda a: a[chosen], tree))
        # Rows that only fill the batch are copies of sample 0, and must not overwrite what sample 0 has.
        target = jnp.where(jnp.arange(group) < jnp.sum(wanted), chosen, wanted.size)
        return jax.tree.map(lambda a, b: a.at[target].set(b, mode="drop"), tree, part)

    return lax.while_loop(lambda tree: jnp.any(pending(tree)), body, tree)


def _certify(problem, state):
    """Objective and gap at the stored codes, for the dual point found; see `lasso.certificate`."""
    rest = state.signals - _combine(problem, state.index, state.sign * state.code)
    value = 0.5 * jnp.sum(rest**2, axis=1) + jnp.sum(state.weight * state.code, axis=1)
    return value, 0.5 * jnp.sum((rest - state.scale[:, None] * state.theta) ** 2, axis=1) + state.slack


def _dense(problem, state, num_latents):
    codes = jnp.zeros((state.code.shape[0], problem.atoms.shape[0]), state.code.dtype)
    rows = jnp.arange(state.code.shape[0])[:, None]
    return codes.at[rows, state.index].add(state.sign * state.code)[:, :num_latents]
