"""Exact working sets: a lasso on a handful of atoms a sample, grown by the atoms that violate
optimality until none does.

`README.md` in this folder has the mathematics. This module has the loop as one program of XLA, for
accelerators, meshes and the transformations of JAX; `host` has that of a CPU.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sae_gap.core import lasso_problem
from sae_gap.core.types import Solution
from sae_gap.runtime import sharding
from sae_gap.solvers import atoms, fista, pivoting, slots
from sae_gap.solvers.atoms import LANES, Problem, hold
from sae_gap.solvers.slots import Samples, State

# Rounds that a doubling of the slots may take before a sample is handed on.
ROUNDS = 12
# Rounds without a change of the basis after which what is left of the gap is rounding.
SETTLED = 3
# Share of its weight that a correlation in the basis may be off by before the tableau is refreshed.
STALE = 1e-4
# Share of the signal that it may be off by before the working set begins anew.
LOST = 0.1
# Floats of the tableaus that are worked on at once.
CACHE = 2**20
# Within one compiled program, FISTA takes over beyond this many slots.
LARGEST_SLOTS = 256


def most_slots(input_dim: int, num_latents: int) -> int:
    """Slots that hold any support of independent atoms, with room for new violators."""
    return LANES * -(-(min(input_dim, num_latents) + LANES) // LANES)


def default_slots(input_dim: int, num_latents: int) -> int:
    """Slots that hold the support of a sample with room for new violators.

    The count is about twice the largest support k that compressed sensing allows,
    `input_dim = 2 k ln(num_latents / k)`.
    """
    support = 1.0
    for _ in range(20):
        support = input_dim / (2 * max(1.0, math.log(num_latents / support)))
    return LANES * max(2, math.ceil(2.2 * support / LANES))


def default_chunk(input_dim: int, num_latents: int) -> int:
    """Samples whose correlations and tableaus take a quarter of a gigabyte."""
    return max(16, 2**26 // max(num_latents, default_slots(input_dim, num_latents) ** 2))


def solve(
    samples: Samples,
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    init: Float[Array, "n num_latents"] | None = None,
    *,
    tol: Float[Array, ""] | float = 1e-6,
    max_iterations: Int[Array, ""] | int = 20_000,
    nonneg: bool = True,
    latents: str | None = None,
) -> Solution:
    """Solve the lasso by exact working sets; atoms should be of about unit norm.

    Nothing is checked on the host, so this may be called inside any transformation of JAX except
    reverse-mode differentiation; `sae_gap.solvers.sparse_code` has that.

    Args:
      samples: signals and weights.
      dictionary: `(input_dim, num_latents)`.
      column: `(1, num_latents)` factors on the weights of all samples, None where samples have
        their own.
      init: `(n, num_latents)` codes whose largest entries open the working sets; None starts from
        zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: rounds, and then iterations of FISTA for the samples left to it, before a
        sample is given up.
      nonneg: whether codes are constrained to be non-negative.
      latents: the mesh axis over which the latents of the dictionary are sharded; None has them all
        on every device.

    Returns:
      A `Solution`; its `iterations` count rounds, of one product each, plus the iterations of
      FISTA.

    References:
      Johnson & Guestrin (2015), "Blitz: a principled meta-algorithm for scaling sparse
      optimization", ICML.
    """
    num_samples, num_latents = samples.signals.shape[0], dictionary.shape[1]
    problem = atoms.pose(
        dictionary, column, tol=tol, limit=max_iterations, nonneg=nonneg, latents=latents
    )
    most = most_slots(*dictionary.shape)
    width = min(default_slots(*dictionary.shape), most)
    group = _group(num_samples, width)
    state = _rounds(problem, begin(problem, samples, init, width), group)
    found = _close(problem, state, num_latents)
    if width < most <= LARGEST_SLOTS:

        def wider():
            size = min(group, _group(num_samples, most))
            return _close(
                problem, _rounds(problem, slots.widen(problem, state, most), size), num_latents
            )

        found = lax.cond(jnp.any(_open_yet(problem, found)), wider, lambda: found)
    return _finish(problem, dictionary, state.samples, found, group)


def begin(
    problem: Problem, samples: Samples, init: Float[Array, "n num_latents"] | None, num_slots: int
) -> State:
    """Free slots and the first candidates: the atoms of the largest codes of `init`, or those of
    largest correlation.
    """
    if samples.column is not None:
        samples = samples._replace(column=slots.whole_blocks(problem, samples.column))
    state = slots.start(problem, samples, num_slots)
    return _measure(problem, state) if init is None else slots.propose(problem, state, init)


def _group(num_samples, width):
    """Samples in a batch: an eighth, so that work follows need, and no more than have their
    tableaus in cache together.
    """
    return min(-(-num_samples // 8), max(LANES, CACHE // width**2))


def _open_yet(problem, found):
    return ~found.converged & (found.iterations < problem.limit)


def certify(
    problem: Problem, state: State
) -> tuple[Float[Array, " n"], Float[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """Objectives, duality gaps at `theta`, products spent, and whether the gaps are met; see
    `lasso_problem.certificate`.
    """
    signals, weight = state.samples.signals, slots.weights_at(problem, state.samples, state.places)
    rest = signals - atoms.combine(hold(problem, state.places), state.sign * state.code)
    scale = state.scale[:, None]
    value, gap = lasso_problem.value_and_gap(
        rest, rest - scale * state.theta, state.code, scale * state.pull, weight
    )
    return (
        value,
        gap,
        state.rounds - 1,
        lasso_problem.is_converged(signals, value, gap, problem.tol),
    )


def _close(problem, state, num_latents):
    return Solution(slots.dense(problem, state, num_latents), *certify(problem, state))


def _finish(problem, dictionary, samples, found, group):
    """Hand the samples that are left to FISTA, from where they are."""

    def step(part):
        _, samples, found = part
        solved = fista.solve(
            samples.signals,
            dictionary,
            (samples.row * (problem.column if samples.column is None else samples.column))[
                :, : dictionary.shape[1]
            ],
            found.codes,
            tol=problem.tol,
            max_iterations=problem.limit,
            nonneg=problem.nonneg,
        )
        solved = eqx.tree_at(lambda s: s.iterations, solved, found.iterations + solved.iterations)
        return jnp.zeros_like(solved.converged), samples, solved

    return by_groups(
        (_open_yet(problem, found), samples, found), lambda tree: tree[0], group, step
    )[2]


def _measure(problem: Problem, state: State) -> State:
    """One product with the dictionary: certify every sample and find the atoms that most violate
    optimality.
    """
    samples = state.samples
    correlations = sharding.shard(
        lasso_problem.product(state.theta, problem.atoms.T), problem.latents, 1
    )
    column = problem.column if samples.column is None else samples.column
    pull = correlations if problem.nonneg else jnp.abs(correlations)
    # A weight of zero counts as very small here: beside it every correlation is a violation.
    scores = jnp.maximum(
        pull * (1 / jnp.maximum(samples.row, 1e-20)) * (1 / jnp.maximum(column, 1e-15)) - 1, 0
    )
    candidate = atoms.leaders(scores, problem.num_blocks, state.candidate.shape[1])
    lead = jnp.take_along_axis(correlations, candidate, axis=1)
    limit = slots.weights_at(problem, samples, candidate)
    scale = lasso_problem.dual_scale(lead, limit, nonneg=problem.nonneg)
    here = state.sign * jnp.take_along_axis(correlations, state.places, axis=1)
    weight, shrink = slots.weights_at(problem, samples, state.places), scale[:, None]
    value, gap = lasso_problem.value_and_gap(
        state.theta, (1 - shrink) * state.theta, state.code, shrink * here, weight
    )
    # Less than the tolerance, so that a gap recomputed from the rounded codes meets it too.
    met = lasso_problem.is_converged(samples.signals, value, gap, 0.9 * problem.tol)
    excess = (lead if problem.nonneg else jnp.abs(lead)) - limit
    return state._replace(
        candidate=candidate if problem.nonneg else jnp.where(lead < 0, -1 - candidate, candidate),
        lead=jnp.where(excess > 0, excess, -jnp.inf),
        scale=scale,
        pull=here,
        rounds=state.rounds + 1,
        done=met | ~jnp.isfinite(gap) | (state.rounds >= problem.limit),
    )


def _round(problem: Problem, state: State) -> State:
    """Take the violators in, solve every sample on its slots, then measure; finished samples keep
    what they have.
    """
    samples, signals = state.samples, state.samples.signals
    size = jnp.sqrt(jnp.sum(signals**2, axis=1))
    places, sign, lead, holds = slots.merge(
        state.places, state.sign, state.basic, state.candidate, state.lead
    )
    new = jnp.any(holds, axis=2)
    held = hold(problem, places, often=True)
    code, swept, basic = pivoting.proceed(
        slots.border(problem, state, held, sign, holds),
        problem.norms[places],
        jnp.where(state.basic, state.code, jnp.where(new, lead, -1)),
        new.astype(lead.dtype),
        state.basic,
        size,
        rank=problem.atoms.shape[1],
        max_pivots=4 * lead.shape[1],
    )
    weight = slots.weights_at(problem, samples, places)
    theta = atoms.residual(held, signals, sign * code)
    # A step of refinement with freshly measured correlations removes the roundoff of the pivots.
    # Theta follows it at full precision, even where the step is below what a code can store.
    wrong = jnp.where(basic, sign * atoms.correlate(held, theta, basic) - weight, 0)
    worst = jnp.max(jnp.abs(wrong), axis=1)
    fix = jnp.where(basic, -jnp.sum(swept * wrong[:, :, None], axis=1), 0)
    fix = jnp.where(code + fix > 0, fix, -code)
    theta = theta - atoms.combine(held, sign * fix)
    code = jnp.maximum(code + fix, 0)
    stale = worst > STALE * jnp.max(jnp.where(basic, weight, 0), axis=1)
    settled = jnp.where(jnp.all(basic == state.basic, axis=1) & ~stale, state.settled + 1, 0)
    moved = state._replace(
        places=places, sign=sign, code=code, basic=basic, swept=swept, theta=theta, settled=settled
    )
    # No optimum leaves more than the signal; a NaN is lost too.
    sound = (worst <= LOST * size) & (jnp.sum(theta**2, axis=1) <= (1 + LOST) * size**2)
    anew = slots.start(problem, samples, lead.shape[1])._replace(rounds=state.rounds)
    moved = _measure(problem, fista.keep(sound, moved, anew))
    late = jnp.any(pending(moved) & sound & stale)
    moved = moved._replace(
        swept=lax.cond(late, lambda: slots.refresh(problem, moved), lambda: moved.swept)
    )
    return fista.keep(~pending(state), state, moved)


def pending(state: State) -> Bool[Array, " n"]:
    """The samples that another round with as many slots may bring on."""
    allowed = ROUNDS * max(2, (state.code.shape[1] - 1).bit_length() - 3)
    return ~(state.done | state.full) & (state.rounds <= allowed) & (state.settled < SETTLED)


def _rounds(problem: Problem, state: State, group: int) -> State:
    """Repeat rounds on the samples that need them, until each is done, is out of slots, or has had
    as many as there are.
    """
    return by_groups(state, pending, group, lambda part: _round(problem, part))


def by_groups(
    tree: PyTree,
    pending: Callable[[PyTree], Bool[Array, " n"]],
    group: int,
    step: Callable[[PyTree], PyTree],
) -> PyTree:
    """Apply `step` to the first `group` samples that are pending, gathered into a batch of their
    own, until none is.

    A group as large as the batch is not gathered, which saves compiling that.

    Args:
      tree: arrays with samples as rows.
      pending: which samples of a tree need another step; each must at some time not.
      group: samples in a step.
      step: maps a tree of `group` rows to one like it.

    Returns:
      The tree after all steps.
    """

    def body(tree):
        wanted = pending(tree)
        if group >= wanted.size:
            return fista.keep(~wanted, tree, step(tree))
        chosen = jnp.nonzero(wanted, size=group, fill_value=0)[0]
        part = step(jax.tree.map(lambda a: a[chosen], tree))
        # Rows that only fill the batch are copies of sample 0, and must not overwrite what sample 0
        # has.
        target = jnp.where(jnp.arange(group) < jnp.sum(wanted), chosen, wanted.size)
        return jax.tree.map(lambda a, b: a.at[target].set(b, mode="drop"), tree, part)

    def loop(tree):
        return lax.while_loop(lambda tree: jnp.any(pending(tree)), body, tree)

    # XLA hoists what does not change in a step out of a loop, even of one that takes no turn; out
    # of a branch it does not.
    return lax.cond(jnp.any(pending(tree)), loop, lambda tree: tree, tree)
