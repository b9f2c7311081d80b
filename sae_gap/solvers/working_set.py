"""The certified coder of accelerators: a whole batch of samples takes rounds of a lasso on a
handful of atoms a sample.

`README.md` in this folder has the mathematics; `host` is the coder of a CPU.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sae_gap.core import lasso_problem
from sae_gap.core.types import Solution
from sae_gap.solvers import compensated, fista, slots
from sae_gap.solvers.leaders import GROUPS, leaders
from sae_gap.solvers.slots import LANES, MOST_CANDIDATES, Problem, Samples, State

# Rounds at each number of slots before a sample moves to twice as many.
ROUNDS = 12
# Rounds without a change of the basis after which the remaining gap is rounding.
SETTLED = 3
# Most slots at the start.
SLOTS = 256
# Floats of a batch of samples: 2 GiB in float32, and temporarily about as much again.
ROOM = 2**29


def most_slots(input_dim: int, num_latents: int) -> int:
    """The number of slots for any support of independent atoms, with room for new violators."""
    return LANES * -(-(min(input_dim, num_latents) + MOST_CANDIDATES) // LANES)


def default_slots(input_dim: int, num_latents: int) -> int:
    """The number of slots for the usual support of a sample, with room for new violators.

    It is about twice the largest support k that compressed sensing allows,
    `input_dim = 2 k ln(num_latents / k)`.
    """
    support = 1.0
    for _ in range(20):
        support = input_dim / (2 * max(1.0, math.log(num_latents / support)))
    return LANES * max(2, math.ceil(2.2 * support / LANES))


def widths(input_dim: int, num_latents: int) -> Iterator[int]:
    """Numbers of slots, each twice the last, up to `most_slots`."""
    shape = input_dim, num_latents
    return doubled(min(SLOTS, default_slots(*shape)), most_slots(*shape))


def doubled(first: int, most: int) -> Iterator[int]:
    """`first`, twice as many, and so on up to `most`."""
    while first < most:
        yield first
        first *= 2
    yield most


def batch_size(shape: tuple[int, ...], width: int) -> int:
    """Number of samples whose atoms, tableaus and correlations fit in `ROOM`."""
    input_dim, num_latents = shape
    return max(16, ROOM // (width * input_dim + 4 * width**2 + 4 * num_latents))


class Found(NamedTuple):
    """Codes by slot with their certificates; samples that are `left` need more slots."""

    places: Int[Array, "n slots"]
    code: Float[Array, "n slots"]
    objective: Float[Array, " n"]
    gap: Float[Array, " n"]
    rounds: Int[Array, " n"]
    converged: Bool[Array, " n"]
    left: Bool[Array, " n"]


def solve(
    samples: Samples,
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    init: Float[Array, "n num_latents"] | None = None,
    **options: Any,
) -> Solution:
    """Solves the lasso by exact working sets in one program, inside any transformation of JAX
    except reverse-mode differentiation.

    Args:
      samples: signals and weights.
      dictionary: `(input_dim, num_latents)`, of atoms of about unit norm.
      column: `(1, num_latents)` factors on the weights of all samples; None if samples have their
        own.
      init: `(n, num_latents)` codes whose largest entries open the working sets; None starts from
        zero.
      **options: `tol`, the duality gap to reach, relative to the objective; `limit`, the products
        with the dictionary before it gives up on a sample; `nonneg`.

    Returns:
      A `Solution`; its `iterations` count products with the dictionary.

    References:
      Johnson & Guestrin (2015), "Blitz: a principled meta-algorithm for scaling sparse
      optimization", ICML.
    """
    problem, samples = slots.pose(samples, dictionary, column, **options)
    shape = dictionary.shape
    first, last = next(widths(*shape)), most_slots(*shape)

    def dense(found):
        start = empty(len(found.code), shape[1], dictionary.dtype)
        return put(start, jnp.arange(len(found.code)), found)

    def narrow(part):
        samples, begun = part
        found = solve_on(problem, samples, begun, first)
        if first == last:
            return dense(found)
        return in_batches(wide, (samples, found, dense(found)), batch_size(shape, last))

    def wide(part):
        samples, found, solution = part

        def again():
            return fista.keep(~found.left, solution, dense(solve_on(problem, samples, found, last)))

        return lax.cond(jnp.any(found.left), again, lambda: solution)

    return in_batches(
        narrow, (samples, begin(problem, samples, init, first)), batch_size(shape, first)
    )


def in_batches(run: Callable[[PyTree], PyTree], rows: PyTree, size: int) -> PyTree:
    """Applies `run` to at most `size` rows at a time; zeros fill up the last batch."""
    number = len(jax.tree.leaves(rows)[0])
    if size >= number:
        return run(rows)
    batches = -(-number // size)

    def split(array):
        padded = jnp.pad(array, ((0, batches * size - number),) + ((0, 0),) * (array.ndim - 1))
        return padded.reshape(batches, size, *array.shape[1:])

    found = lax.map(run, jax.tree.map(split, rows))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:number], found)


def solve_apart(
    samples: Samples,
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    init: Float[Array, "n num_latents"] | None = None,
    **options: Any,
) -> Iterator[tuple[Int[np.ndarray, " some"], Found]]:
    """Solves as `solve` does, in batches: a program for each number of slots takes the samples that
    need so many.

    Yields:
      Batches: the rows of the finished samples, and their results. Rows beyond the last sample
      mean nothing.
    """
    shape, number = dictionary.shape, len(samples.signals)
    problem, samples = slots.pose(samples, dictionary, column, **options)
    todo, begun = np.arange(number), begin(problem, samples, init, next(widths(*shape)))
    for width in widths(*shape):
        # Powers of two, so that few programs serve all numbers of remaining samples.
        power = 1 << (len(todo) - 1).bit_length()
        size = min(batch_size(shape, width), number if len(todo) == number else power)
        solved = []
        for place in np.arange(size * -(-len(todo) // size)).reshape(-1, size):
            own = np.minimum(place, len(todo) - 1)
            part = jax.tree.map(lambda a, rows=todo[own]: a[rows], samples)
            old = jax.tree.map(lambda a, own=own: a[own], begun)
            rows = np.where(place < len(todo), todo[own], number)
            solved.append((rows, _solve_on(problem, part, old, width)))
        rest = []
        for rows, found in solved:
            left = np.asarray(found.left) & (rows < number) & (width < most_slots(*shape))
            yield np.where(left, number, rows), found
            rest.append((rows[left], jax.tree.map(lambda a, left=left: np.asarray(a)[left], found)))
        todo, begun = jax.tree.map(lambda *parts: np.concatenate(parts), *rest)
        if not len(todo):
            return


def begin(
    problem: Problem, samples: Samples, init: Float[Array, "n num_latents"] | None, width: int
) -> Found:
    """The start: some of the largest codes of `init`, few enough to leave free slots."""
    n, dtype = len(samples.signals), samples.signals.dtype
    places, code = jnp.zeros((n, 0), jnp.int32), jnp.zeros((n, 0), dtype)
    if init is not None:
        init = jnp.pad(init, ((0, 0), (0, len(problem.atoms) - init.shape[1])))
        count = min(width * 3 // 4, problem.num_blocks)
        places = leaders(jnp.abs(init), problem.num_blocks, count)
        code = jnp.take_along_axis(init, places, axis=1)
    none = jnp.zeros(n, dtype)
    return Found(places, code, none, none, none.astype(jnp.int32), none > 0, none == 0)


def empty(number: int, num_latents: int, dtype: Any) -> Solution:
    """A solution of zeros."""
    kinds = dtype, dtype, jnp.int32, bool
    return Solution(
        jnp.zeros((number, num_latents), dtype), *(jnp.zeros(number, kind) for kind in kinds)
    )


@functools.partial(jax.jit, donate_argnums=0)
def put(solution: Solution, rows: Int[Array, " some"], found: Found) -> Solution:
    """Puts results into the rows of an empty solution; rows beyond the last are left out."""
    codes = solution.codes.at[rows[:, None], found.places].add(found.code, mode="drop")
    old = solution.objective, solution.gap, solution.iterations, solution.converged
    rest = (a.at[rows].set(b, mode="drop") for a, b in zip(old, found[2:6], strict=True))
    return Solution(codes, *rest)


def solve_on(problem: Problem, samples: Samples, begun: Found, width: int) -> Found:
    """Takes rounds on a number of slots, whose first hold the codes begun, until every sample is
    done, or out of slots or rounds.
    """
    spare = ((0, 0), (0, width - begun.places.shape[1]))
    count = min(width // 2, MOST_CANDIDATES, problem.num_blocks)
    none = jnp.zeros((len(begun.code), count), jnp.int32)
    state = State(
        places=jnp.pad(begun.places, spare),
        code=jnp.pad(begun.code, spare),
        theta=samples.signals,
        tail=jnp.zeros_like(samples.signals),
        candidate=none,
        lead=none.astype(begun.code.dtype),
        rounds=begun.rounds,
        settled=none[:, 0],
        objective=begun.objective,
        gap=begun.gap,
    )

    def unfinished(state):
        return jnp.any(pending(problem, samples, state))

    def step(state):
        moved = measure(problem, samples, slots.proceed(problem, samples, state))
        return fista.keep(~pending(problem, samples, state), state, moved)

    if not begun.places.shape[1]:
        state = measure(problem, samples, state)
    state = lax.while_loop(unfinished, step, state)
    value, gap = state.objective, state.gap
    converged = lasso_problem.is_converged(samples.signals, value, gap, problem.tol)
    left = ~converged & jnp.isfinite(gap) & (state.rounds < problem.limit)
    return Found(state.places, state.code, value, gap, state.rounds, converged, left)


_solve_on = jax.jit(solve_on, static_argnames="width")


def pending(problem: Problem, samples: Samples, state: State) -> Bool[Array, " n"]:
    """True for samples that another round with as many slots may improve."""
    width, known = state.code.shape[1], state.rounds > 0
    free = jnp.sum(state.code == 0, axis=1)
    full = (state.settled == 0) & (free < min(width // 8, MOST_CANDIDATES))
    # Below the tolerance, so that a gap recomputed from the codes alone mostly meets it too.
    met = lasso_problem.is_converged(samples.signals, state.objective, state.gap, 0.9 * problem.tol)
    allowed = ROUNDS * max(2, (width - 1).bit_length() - 3)
    over = met | ~jnp.isfinite(state.gap) | (state.rounds >= jnp.minimum(problem.limit, allowed))
    return ~(known & over) & ~full & (state.settled < SETTLED)


def measure(problem: Problem, samples: Samples, state: State) -> State:
    """One product with the dictionary: the leading violators, objectives, and duality gaps at
    `theta`; see `lasso_problem.certificate`.

    The product has an error of at most `u (m + 4) ‖a‖ ‖θ‖`, which is added. The products of the
    atoms in the slots, and of the atoms closest to their weight, are computed again as if in twice
    the precision.
    """
    theta, rows, count = state.theta, jnp.arange(len(state.theta))[:, None], state.lead.shape[1]
    bound = jnp.finfo(theta.dtype).eps * (theta.shape[1] + 4) * jnp.linalg.norm(theta, axis=1)
    pull = lasso_problem.product(theta, problem.atoms.T)
    pull = (pull if problem.nonneg else jnp.abs(pull)) + bound[:, None] * problem.norms
    held = jnp.where(state.code == 0, pull.shape[1], state.places)
    ratio = slots.ratio(problem, samples, pull).at[rows, held].set(0, mode="drop")
    found = [state.places]
    # Again, for atoms that share a block with a leader.
    for number in (count, GROUPS):
        found.append(leaders(jnp.maximum(ratio, 0), problem.num_blocks, number))
        ratio = ratio.at[rows, found[-1]].set(0)
    places = jnp.concatenate(found, axis=1)
    held, weight = problem.atoms[places], slots.weights_at(problem, samples, places)
    pull = slots.exact(held, theta) + slots.correlate(held, state.tail)
    scale = jnp.minimum(
        lasso_problem.dual_scale(pull, weight, nonneg=problem.nonneg),
        1 / jnp.maximum(jnp.max(ratio, axis=1), 1),
    )
    own, new = slice(0, -count - GROUPS), slice(-count - GROUPS, -GROUPS)
    rest = compensated.dot(-state.code[:, None], jnp.swapaxes(held[:, own], 1, 2), samples.signals)
    value, gap = lasso_problem.value_and_gap(
        rest, state.code, pull[:, own], weight[:, own], scale, theta
    )
    size = pull if problem.nonneg else jnp.abs(pull)
    return state._replace(
        candidate=places[:, new],
        lead=jnp.where(size > weight, pull, 0)[:, new],
        rounds=state.rounds + 1,
        objective=value,
        gap=gap,
    )
