"""Exact working sets: a lasso on a handful of atoms a sample, grown by the atoms that violate optimality until none does.

One product with the dictionary certifies every sample or finds its violators. Between two products each sample takes the newest
violators into its slots and goes on to the optimum on these, by `pivoting`, from the basis that it has. Few samples need more
than a handful of products. Work follows need: slots begin few and become more for the samples that fill them, up to as many
as the dictionary has dimensions, and a sample that is done is worked on no more. The rare ones whose certificate is out of
reach of the tableau's rounding are handed to FISTA.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import lasso_problem
from sae_gap.core.types import Solution
from sae_gap.runtime import sharding
from sae_gap.solvers import fista, pivoting, slots, spread_atoms
from sae_gap.solvers.batching import by_groups, keep
from sae_gap.solvers.screening import leaders
from sae_gap.solvers.slots import State
from sae_gap.solvers.spread_atoms import LANES, Problem

# Rounds that a doubling of the slots may take, before a sample is handed on.
ROUNDS = 12
# Rounds without a change of the basis after which what is left of the gap is rounding.
SETTLED = 3
# What the codes of a tableau may miss of their weight before it is rid of its rounding.
STALE = 1e-4
# What they may miss of it beside the signal, beyond which nothing of the tableau is worth mending.
LOST = 0.1
# Floats of the tableaus that are worked on at once.
CACHE = 2**20
# Within one compiled program, beyond this many slots FISTA takes over.
LARGEST_SLOTS = 256


def most_slots(input_dim: int, num_latents: int) -> int:
    """Slots that hold any support of independent atoms, with room for new violators."""
    return LANES * -(-(min(input_dim, num_latents) + LANES) // LANES)


def default_slots(input_dim: int, num_latents: int) -> int:
    """Slots that hold the support of a sample with room for new violators.

    The count is about twice the largest support k that compressed sensing allows, `input_dim = 2 k ln(num_latents / k)`.
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
    latents: str | None = None,
) -> Solution:
    """Solve the lasso by exact working sets; atoms should be of about unit norm.

    Like every solver's core it checks nothing on the host and may be called inside any transformation of JAX except
    reverse-mode differentiation, for which see `sae_gap.solvers.sparse_code`.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      lam: scalar, `(n,)`, `(num_latents,)` or broadcasting to `(n, num_latents)`.
      init: `(n, num_latents)` codes whose largest entries open the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: rounds, and then iterations of FISTA for the samples left to it, after which a sample is given up.
      nonneg: whether codes are constrained to be non-negative.
      atom_weights: `(1, num_latents)` factors on `lam`, so that neither need be expanded to `(n, num_latents)`.
      latents: the axis of the mesh of the context over which the latents of the dictionary are spread; None has them all on
        every device.

    Returns:
      A `Solution`; its `iterations` count rounds, of one product each, plus the iterations of FISTA.

    References:
      Johnson & Guestrin (2015), "Blitz: a principled meta-algorithm for scaling sparse optimization", ICML.
    """
    num_samples, num_latents = signals.shape[0], dictionary.shape[1]
    lam = lasso_problem.expand_lam(lam, num_samples, num_latents)
    column = jnp.ones((1, num_latents), signals.dtype) if atom_weights is None else atom_weights
    row, own = (lam, None) if lam.shape[1] == 1 else (jnp.ones((1, 1), signals.dtype), lam * column)
    if own is not None and own.shape[0] == 1:
        column, own = own, None
    with_gram = latents is None and spread_atoms.wants_gram(num_latents, num_samples)
    problem = spread_atoms.pose(
        dictionary, column, tol=tol, limit=max_iterations, nonneg=nonneg, with_gram=with_gram, latents=latents
    )
    width, most = default_slots(*dictionary.shape), most_slots(*dictionary.shape)
    width = min(width, most)
    group = _group(num_samples, width)
    state = begin(problem, signals, jnp.broadcast_to(row, (num_samples, 1)), own, init, width)
    state = _rounds(problem, state, group)
    found = _close(problem, state, num_latents)
    if width < most <= LARGEST_SLOTS:

        def wider():
            size = min(group, _group(num_samples, most))
            return _close(problem, _rounds(problem, slots.widen(problem, state, most), size), num_latents)

        found = lax.cond(jnp.any(_open_yet(problem, found)), wider, lambda: found)
    return _finish(problem, dictionary, state, found, group)


def begin(
    problem: Problem,
    signals: Float[Array, "n input_dim"],
    row: Float[Array, "n 1"],
    column: Float[Array, "n num_latents"] | None,
    init: Float[Array, "n num_latents"] | None,
    num_slots: int,
) -> State:
    """Samples with empty slots and their first candidates: the largest codes of `init`, or the atoms of largest correlation."""
    state = slots.start(problem, signals, row, column, init, num_slots)
    return state if init is not None else _measure(problem, state)


def _group(num_samples, width):
    """Samples to a batch: an eighth, so that work follows need, and no more than have their tableaus in cache together."""
    return min(-(-num_samples // 8), max(LANES, CACHE // width**2))


def _open_yet(problem, found):
    return ~found.converged & (found.iterations < problem.limit)


def certify(
    problem: Problem, state: State
) -> tuple[Float[Array, " n"], Float[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """Objectives, duality gaps at `theta`, products spent, and whether the gaps are met; see `lasso_problem.certificate`."""
    rest = state.signals - spread_atoms.combine(spread_atoms.hold(problem, state.places), state.sign * state.code)
    value = 0.5 * jnp.sum(rest**2, axis=1) + jnp.sum(state.weight * state.code, axis=1)
    gap = 0.5 * jnp.sum((rest - state.scale[:, None] * state.theta) ** 2, axis=1) + state.slack
    return value, gap, state.rounds - 1, lasso_problem.is_converged(state.signals, value, gap, problem.tol)


def _close(problem, state, num_latents):
    return Solution(slots.dense(problem, state, num_latents), *certify(problem, state))


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

    tree = (_open_yet(problem, found), state.signals, state.row, state.column, found)
    return by_groups(tree, lambda tree: tree[0], group, step)[4]


def _reciprocal(weights):
    """One over a weight; a zero weight, beside which every correlation is a violation, counts as very small."""
    return 1 / jnp.maximum(weights, 1e-15)


def _measure(problem: Problem, state: State) -> State:
    """One product with the dictionary: certify every sample and find the atoms that most violate optimality."""
    correlations = sharding.spread(lasso_problem.product(state.theta, problem.atoms.T), problem.latents, 1)
    column = problem.column if state.column is None else state.column
    pull = correlations if problem.nonneg else jnp.abs(correlations)
    scores = jnp.maximum(pull * _reciprocal(state.row) * _reciprocal(column) - 1, 0)
    candidate = leaders(scores, problem.num_blocks, state.candidate.shape[1])
    lead = jnp.take_along_axis(correlations, candidate, axis=1)
    limit = slots.weights_at(problem, state, candidate)
    scale = lasso_problem.dual_scale(lead, limit, nonneg=problem.nonneg)
    here = state.sign * jnp.take_along_axis(correlations, state.places, axis=1)
    slack = jnp.sum(jnp.maximum(state.code * (state.weight - scale[:, None] * here), 0), axis=1)
    energy = 0.5 * jnp.sum(state.theta**2, axis=1)
    value = energy + jnp.sum(state.weight * state.code, axis=1)
    gap = (1 - scale) ** 2 * energy + slack
    # Less than the tolerance, so that a gap recomputed from the rounded codes meets it too.
    met = lasso_problem.is_converged(state.signals, value, gap, 0.9 * problem.tol)
    excess = (lead if problem.nonneg else jnp.abs(lead)) - limit
    free = jnp.sum(~state.basic, axis=1)
    return state._replace(
        candidate=candidate if problem.nonneg else jnp.where(lead < 0, -1 - candidate, candidate),
        lead=jnp.where(excess > 0, excess, -jnp.inf),
        scale=scale,
        slack=slack,
        rounds=state.rounds + 1,
        done=met | ~jnp.isfinite(gap) | (state.rounds >= problem.limit),
        full=jnp.where(state.settled > 0, free == 0, free < state.basic.shape[1] // 8),
    )


def _round(problem: Problem, state: State) -> State:
    """Take the violators in, solve every sample on its slots, then measure; finished samples keep what they have."""
    late = jnp.any(pending(state) & state.stale)
    swept = lax.cond(late, lambda: slots.refresh(problem, state), lambda: state.swept)
    moved = state._replace(swept=swept)
    places, sign, lead, holds = slots.merge(state.places, state.sign, state.basic, state.candidate, state.lead)
    new = jnp.any(holds, axis=2)
    held = spread_atoms.hold(problem, places, often=True)
    swept, norms = slots.sweep(problem, moved, held, sign, holds)
    value = jnp.where(state.basic, state.code, jnp.where(new, lead, -1))
    slope = new.astype(value.dtype)
    most = 4 * value.shape[1]
    rank = problem.atoms.shape[1]
    code, swept, basic = pivoting.proceed(swept, norms, value, slope, state.basic, state.size, rank=rank, max_pivots=most)
    weight = slots.weights_at(problem, state, places)
    theta = spread_atoms.residual(held, state.signals, sign * code)
    # The roundoff of the pivots is removed by a step of refinement with freshly measured correlations. Theta follows it at full
    # precision, even where it is below what a code can store.
    wrong = jnp.where(basic, sign * spread_atoms.correlate(held, theta, basic) - weight, 0)
    worst = jnp.max(jnp.abs(wrong), axis=1)
    fix = jnp.where(basic, -jnp.sum(swept * wrong[:, :, None], axis=1), 0)
    fix = jnp.where(code + fix > 0, fix, -code)
    theta = theta - spread_atoms.combine(held, sign * fix)
    code = jnp.maximum(code + fix, 0)
    stale = worst > STALE * jnp.max(jnp.where(basic, weight, 0), axis=1)
    moved = state._replace(places=places, sign=sign, code=code, weight=weight)
    same = jnp.all(basic == state.basic, axis=1) & ~state.stale
    settled = jnp.where(same, state.settled + 1, 0)
    moved = moved._replace(theta=theta, swept=swept, basic=basic, settled=settled, stale=stale)
    # No optimum leaves more than the signal; a NaN is lost too.
    sound = (worst <= LOST * state.size) & (jnp.sum(theta**2, axis=1) <= (1 + LOST) * state.size**2)
    moved = keep(sound, moved, slots.empty(moved))
    return keep(~pending(state), state, _measure(problem, moved))


def pending(state: State) -> Bool[Array, " n"]:
    """The samples that another round with as many slots may bring on."""
    return ~(state.done | state.full) & (state.rounds <= _allowed(state)) & (state.settled < SETTLED)


def _allowed(state: State) -> int:
    return ROUNDS * max(2, (state.code.shape[1] - 1).bit_length() - 3)


def _rounds(problem: Problem, state: State, group: int) -> State:
    """Repeat rounds on the samples that need them, until each is done, is out of slots, or has had as many as there are."""
    return by_groups(state, pending, group, lambda part: _round(problem, part))


def advance(problem: Problem, state: State, least: Int[Array, ""]) -> State:
    """Repeat rounds on a batch until at most `least` of its samples need another."""
    return lax.while_loop(lambda s: jnp.sum(pending(s)) > least, lambda s: _round(problem, s), state)


__all__ = ["advance", "begin", "certify", "default_chunk", "default_slots", "most_slots", "pending", "solve"]
