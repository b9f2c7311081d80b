"""Exact working sets: a lasso on a handful of atoms a sample, grown by the atoms that violate optimality until none does.

One product with the dictionary certifies every sample or finds its violators. Between two products each sample solves its own
small problem exactly, by `pivoting`, on a set of slots that holds its support and the newest violators. Few samples need more
than four products. Those still open are gathered into smaller batches, so that work follows need, and the rare ones whose
support outgrows all slots, or whose atoms are dependent, are handed to FISTA.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap import lasso
from sae_gap.solvers import fista, pivoting, slots
from sae_gap.solvers.batching import by_groups, keep
from sae_gap.solvers.screening import leaders
from sae_gap.solvers.slots import Problem, State
from sae_gap.types import Solution

# Rows of this many floats fill the vector registers of every current processor evenly.
LANES = 16
MAX_ROUNDS = 12
# Floats of the tableaus that are worked on at once.
CACHE = 2**20
# Beyond this many slots the tableau costs more than FISTA does.
LARGEST_SLOTS = 256
# Below this many samples one plain loop costs less than compiling the stages that save work on large batches.
SMALL_BATCH = 512


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
      max_iterations: rounds, and then iterations of FISTA for the samples left to it, after which a sample is given up.
      nonneg: whether codes are constrained to be non-negative.
      atom_weights: ``(1, num_latents)`` factors on `lam`, so that neither need be expanded to ``(n, num_latents)``.

    Returns:
      A `Solution`; its `iterations` count rounds, of one product each, plus the iterations of FISTA.

    References:
      Johnson & Guestrin (2015), "Blitz: a principled meta-algorithm for scaling sparse optimization", ICML.
    """
    num_samples, num_latents = signals.shape[0], dictionary.shape[1]
    lam = lasso.expand_lam(lam, num_samples, num_latents)
    staged = num_samples > SMALL_BATCH
    width, most = default_slots(*dictionary.shape), LANES * -(-(min(dictionary.shape) + LANES) // LANES)
    if not staged and most <= 2 * width:
        width = most
    group = _group(num_samples, width) if staged else num_samples
    # At first all slots are new candidates, which are half as many.
    opening = width // 2 if staged and init is None else width
    problem, state = slots.start(
        signals,
        dictionary,
        lam,
        init,
        atom_weights=atom_weights,
        tol=tol,
        limit=jnp.asarray(max_iterations, jnp.int32),
        nonneg=nonneg,
        num_slots=opening,
        num_candidates=width // 2,
    )
    if staged:
        state = by_groups(state, lambda s: s.rounds == 0, group, lambda s: _open(problem, s))
    state = _rounds(problem, slots.widen(state, width), group, MAX_ROUNDS)
    found = _close(problem, state, num_latents)
    if width < most <= LARGEST_SLOTS:

        def wider():
            size = min(group, _group(num_samples, most))
            return _close(problem, _rounds(problem, slots.widen(state, most), size, 2 * MAX_ROUNDS), num_latents)

        found = lax.cond(jnp.any(_open_yet(problem, found)), wider, lambda: found)
    return _finish(problem, dictionary, state, found, group)


def _group(num_samples, width):
    """Samples to a batch: an eighth, so that work follows need, and no more than have their tableaus in cache together."""
    return min(-(-num_samples // 8), max(LANES, CACHE // width**2))


def _open_yet(problem, found):
    return ~found.converged & (found.iterations < problem.limit)


def _close(problem, state, num_latents):
    """Codes with their certificates at `theta`; see `lasso.certificate`."""
    rest = state.signals - slots.combine(problem, state.places, state.sign * state.code)
    value = 0.5 * jnp.sum(rest**2, axis=1) + jnp.sum(state.weight * state.code, axis=1)
    gap = 0.5 * jnp.sum((rest - state.scale[:, None] * state.theta) ** 2, axis=1) + state.slack
    converged = lasso.is_converged(state.signals, value, gap, problem.tol)
    return Solution(slots.dense(state, num_latents), value, gap, state.rounds - 1, converged)


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
    correlations = lasso.product(state.theta, problem.atoms.T)
    column = problem.column if state.column is None else state.column
    pull = correlations if problem.nonneg else jnp.abs(correlations)
    scores = jnp.maximum(pull * _reciprocal(state.row) * _reciprocal(column) - 1, 0)
    candidate = leaders(scores, problem.num_blocks, state.candidate.shape[1])
    lead = jnp.take_along_axis(correlations, candidate, axis=1)
    limit = slots.weights_at(problem, state, candidate)
    scale = lasso.dual_scale(lead, limit, nonneg=problem.nonneg)
    here = state.sign * jnp.take_along_axis(correlations, state.places, axis=1)
    slack = jnp.sum(jnp.maximum(state.code * (state.weight - scale[:, None] * here), 0), axis=1)
    energy = 0.5 * jnp.sum(state.theta**2, axis=1)
    value = energy + jnp.sum(state.weight * state.code, axis=1)
    gap = (1 - scale) ** 2 * energy + slack
    # Half the tolerance at first, so that a gap recomputed from the rounded codes meets it too.
    target = jnp.where(state.rounds < MAX_ROUNDS // 2, 0.5, 1) * problem.tol
    met = lasso.is_converged(state.signals, value, gap, target)
    return state._replace(
        excess=here - state.weight,
        candidate=candidate if problem.nonneg else jnp.where(lead < 0, -1 - candidate, candidate),
        lead=(lead if problem.nonneg else jnp.abs(lead)) - limit,
        scale=scale,
        slack=slack,
        rounds=state.rounds + 1,
        done=met | ~jnp.isfinite(gap) | (state.rounds >= problem.limit),
        full=jnp.all(state.code > 0, axis=1),
    )


def _round(problem: Problem, state: State, max_pivots: int) -> State:
    """Solve every sample on its slots, then measure; finished samples keep what they have."""
    places, sign, lead, new = slots.merge(state.places, state.sign, state.code, state.candidate, state.lead)
    filled = (state.code > 0) | new
    excess = jnp.where(state.code > 0, state.excess, jnp.where(new, lead, -1))
    gram = slots.gram(problem, places, sign, filled)
    linear = jnp.where(filled, excess + jnp.sum(gram * state.code[:, :, None], axis=1), -1)
    code, swept, basic = pivoting.solve(gram, linear, max_pivots=max_pivots)
    weight = slots.weights_at(problem, state, places)
    theta = slots.residual(problem, state.signals, places, sign * code)
    # The roundoff of the pivots is removed by a step of refinement with freshly measured correlations. Theta follows it at full
    # precision, even where it is below what a code can store.
    wrong = jnp.where(basic, sign * slots.correlate(problem, places, theta) - weight, 0)
    fix = jnp.where(basic, -jnp.sum(swept * wrong[:, :, None], axis=1), 0)
    fix = jnp.where(code + fix > 0, fix, -code)
    theta = theta - slots.combine(problem, places, sign * fix)
    code = jnp.maximum(code + fix, 0)
    moved = state._replace(places=places, sign=sign, code=code, weight=weight, theta=theta)
    return keep(state.done, state, _measure(problem, moved))


def _open(problem: Problem, state: State) -> State:
    """The first round; a small batch makes do with an idle one before it, in which there are no violators yet."""
    state = _measure(problem, state)
    return _round(problem, state, state.code.shape[1] + 4)


def _rounds(problem: Problem, state: State, group: int, most: int) -> State:
    """Repeat rounds on the samples that need them, until each is done, is out of slots, or has had `most`."""

    def pending(state):
        return ~(state.done | state.full) & (state.rounds <= most)

    return by_groups(state, pending, group, lambda part: _round(problem, part, 4 * part.code.shape[1]))


__all__ = ["default_chunk", "default_slots", "solve"]
