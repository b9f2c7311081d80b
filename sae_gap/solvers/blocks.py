"""The working set on a CPU: blocks of samples on threads, in programs of few shapes, with as many slots as a sample needs.

A block holds as many samples as have their tableaus in cache together. It stops when half of its samples are done; the rest are
gathered, and go on in new blocks. Samples that fill their slots go on with twice as many. Samples whose certificate is out of
reach of single precision are polished, then solved again in double, and what is left even then goes to FISTA. The problem
alone decides which samples share a block, never the threads, and so it decides the bits of the codes.
"""

import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from sae_gap.core.types import Solution
from sae_gap.runtime.cores import cores
from sae_gap.solvers import fista, slots, working_set
from sae_gap.solvers.atoms import Problem, pose, wants_gram
from sae_gap.solvers.polish import polish
from sae_gap.solvers.slots import Samples, State

# A block never has fewer slots than this.
FEWEST_SLOTS = 32
# Samples in flight at once, and floats of their tableaus and of their correlations with all atoms.
IN_FLIGHT = 8_192
TABLEAUS = 2**26
CORRELATIONS = 2**24
# Floats of the tableaus of a block: those of two threads stay in cache.
BLOCK = 2**18
# Numbers of samples that a block is padded to. They are few, as each is compiled.
SHAPES = (16, 64, 256)
# A block keeps to its thread, so that its bits do not depend on the number of cores. Full optimisation would gain little speed
# for seconds of compiling; JAX_DISABLE_MOST_OPTIMIZATIONS, which saves more of them, stays in force.
ALONE: dict[str, bool | int] = {"xla_cpu_multi_thread_eigen": False}
if not jax.config.values.get("jax_disable_most_optimizations"):
    ALONE["xla_backend_optimization_level"] = 1


class _Found:
    """What is known of each sample so far; every block writes rows of its own."""

    def __init__(self, num_samples: int, num_latents: int, dtype: np.dtype):
        self.objective, self.gap = np.zeros(num_samples, dtype), np.zeros(num_samples, dtype)
        self.iterations, self.converged = np.zeros(num_samples, np.int32), np.zeros(num_samples, bool)
        self._shape, self._dtype = (num_samples, num_latents), dtype
        # Codes as triplets. A later piece replaces what earlier ones have of its rows.
        self._pieces: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        self._count, self._latest = itertools.count(1), np.zeros(num_samples, int)

    def put(self, rows: np.ndarray, latents: np.ndarray, values: np.ndarray, objective, gap, iterations, converged) -> None:
        """Write down codes by slot with their certificates; iterations are added up."""
        row, slot = np.nonzero(values)
        number = next(self._count)
        self._latest[rows] = number
        self._pieces.append((number, rows[row], latents[row, slot], values[row, slot].astype(self._dtype)))
        self.objective[rows], self.gap[rows], self.converged[rows] = objective, gap, converged
        self.iterations[rows] += iterations

    def codes(self) -> scipy.sparse.csr_array:
        """Codes of all samples."""
        pieces = [(row, latent, value, self._latest[row] == number) for number, row, latent, value in self._pieces]
        row, latent, value, valid = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return scipy.sparse.csr_array((value[valid], (row[valid], latent[valid])), shape=self._shape)


class _Task(NamedTuple):
    """What all blocks work on, and where they put down what they find."""

    problem: Problem
    samples: Samples
    init: Array | None
    found: _Found


class _Part(NamedTuple):
    """Some of the samples, and their state: None before they begin."""

    rows: np.ndarray
    state: State | None


def solve(
    samples: Samples,
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    init: Float[Array, "n num_latents"] | None = None,
    *,
    tol: float,
    max_iterations: int,
    nonneg: bool = True,
    threads: int | None = None,
) -> Solution:
    """Solve the lasso of `working_set.solve` on the host, where all values are known; atoms should be of about unit norm.

    Args:
      samples: signals and weights.
      dictionary: `(input_dim, num_latents)`.
      column: `(1, num_latents)` factors on the weights of all samples, None where samples have their own.
      init: `(n, num_latents)` codes whose largest entries open the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: rounds, and then iterations of FISTA for the samples left to it, before a sample is given up.
      nonneg: whether codes are constrained to be non-negative.
      threads: blocks worked on at once; None takes one for each core.

    Returns:
      A `Solution` with its codes as a `scipy.sparse.csr_array`. Its `iterations` count rounds, of one product each, plus the
      iterations of FISTA.
    """
    given: Any = jax.tree.map(np.asarray, (samples, init, column))
    samples, init, column = given
    num_latents, dtype = dictionary.shape[1], np.dtype(samples.signals.dtype)
    found = _Found(len(samples.signals), num_latents, dtype)

    def left():
        return np.flatnonzero(~found.converged & (found.iterations < max_iterations))

    for precision in sorted({dtype, np.dtype(np.float64)}, key=lambda each: each.itemsize):
        rows = left()
        if not len(rows):
            break
        with jax.enable_x64(precision == np.float64), concurrent.futures.ThreadPoolExecutor(threads or cores()) as pool:
            atoms, factors = (None if array is None else np.asarray(array, precision) for array in (dictionary, column))
            with_gram = wants_gram(num_latents, len(rows))
            problem = _pose(atoms, factors, tol, max_iterations, nonneg=nonneg, with_gram=with_gram)
            task = _Task(problem, samples, init, found)
            widths = _widths(problem, num_latents, init)
            if precision != dtype:
                # They are few, and a program less to compile is worth more than slots that fit.
                widths = [width for width in widths if width >= 4 * FEWEST_SLOTS] or widths[-1:]
            for part in _pieces(rows, IN_FLIGHT):
                _climb(task, _Part(part, None), widths, map if threads == 1 else pool.map)
        if precision == np.float32:
            _polish(task, left(), column, tol)
    for part in _pieces(left(), SHAPES[-1]):
        padded = np.resize(part, SHAPES[-1])
        lam = samples.row[padded] * (column if samples.column is None else samples.column[padded])
        begun = found.codes()[padded].toarray()
        solved = _fista(samples.signals[padded], dictionary, lam, begun, tol, max_iterations, nonneg=nonneg)
        found.put(part, *_by_slot(*(np.asarray(array)[: len(part)] for array in vars(solved).values())))
    certificates = found.objective, found.gap, found.iterations, found.converged
    return Solution(found.codes(), *map(jnp.asarray, certificates))


def _pieces(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


def _by_slot(codes: np.ndarray, *certificate):
    """Codes of all latents as `_Found.put` takes them: with a slot for each latent."""
    return np.broadcast_to(np.arange(codes.shape[1]), codes.shape), codes, *certificate


def _polish(task: _Task, rows: np.ndarray, column: Any, tol: float) -> None:
    """Certify in double the samples left near the optimum."""
    samples: Any = task.samples
    codes = task.found.codes()
    atoms = np.asarray(task.problem.atoms, np.float64)[: codes.shape[1]]
    for i in rows[np.diff(codes.indptr)[rows] > 0]:
        weight = samples.row[i] * (column[0] if samples.column is None else samples.column[i])
        own = slice(codes.indptr[i], codes.indptr[i + 1])
        signal, support, values = samples.signals[i], codes.indices[own], codes.data[own]
        support, values, value, gap = polish(signal, atoms, weight, support, values, nonneg=task.problem.nonneg)
        if value > 0 and gap <= tol * value:
            task.found.put(np.array([i]), support[None], values[None], value, gap, 1, True)


def _widths(problem: Problem, num_latents: int, init: Array | None) -> list[int]:
    """Numbers of slots, each twice the last, up to where any support fits; the first has room for a typical `init`."""
    most = working_set.most_slots(problem.atoms.shape[1], num_latents)
    fewest = FEWEST_SLOTS
    if init is not None:
        typical = np.median(np.count_nonzero(init, axis=1))
        while fewest < 2 * typical and fewest < 2 * slots.MOST_CANDIDATES:
            fewest *= 2
    widths = []
    while fewest < most:
        widths.append(fewest)
        fewest *= 2
    return [*widths, most]


def _climb(task: _Task, part: _Part, widths: list[int], run: Callable) -> None:
    """Work on samples until each is done; those that fill their slots then go on together with twice as many."""
    filled: list[_Part] = []
    precise = task.problem.atoms.dtype == np.float64
    while len(part.rows):
        blocks = list(_blocks(len(part.rows), widths[0], task.problem.atoms.shape[0]))
        last = len(blocks) == 1

        def work(block, part=part, last=last):
            chosen, size = block
            # A thread does not inherit the precision of the thread that made it.
            with jax.enable_x64(precise):
                return _work(task, _take(part, chosen), size, 0 if last else len(chosen) // 2, widths)

        full, part = (_join(parts) for parts in zip(*run(work, blocks), strict=True))
        filled.append(full)
    full = _join(filled)
    if len(full.rows):
        most = max(1, TABLEAUS // widths[1] ** 2)
        for chosen in np.array_split(np.arange(len(full.rows)), -(-len(full.rows) // most)):
            _climb(task, _take(full, chosen), widths[1:], run)


def _work(task: _Task, part: _Part, size: int, least: int, widths: list[int]) -> tuple[_Part, _Part]:
    """Bring a block on, write down what is found, and return the samples whose slots are full and the others still open."""
    count = len(part.rows)
    padded = np.resize(np.arange(count), size)
    if part.state is None:
        dtype = task.problem.atoms.dtype
        own = jax.tree.map(lambda array: np.asarray(array[part.rows[padded]], dtype), (task.samples, task.init))
        state = _begin(task.problem, *own, num_slots=widths[0])
    else:
        state = _take(part, padded).state
    if state.code.shape[1] < widths[0]:
        state = _widen(task.problem, state, num_slots=widths[0])
    state = state._replace(done=np.asarray(state.done) | (np.arange(size) >= count))
    brought = _advance(task.problem, state, least)
    state, certified, open_yet, full = jax.tree.map(lambda array: np.asarray(array)[:count], brought)
    wider = full & ~state.done & (len(widths) > 1)
    over = np.flatnonzero(~open_yet & ~wider)
    codes = state.places[over], (state.sign * state.code)[over]
    task.found.put(part.rows[over], *codes, *(array[over] for array in certified))
    left = _Part(part.rows, state)
    return _take(left, np.flatnonzero(wider)), _take(left, np.flatnonzero(open_yet & ~wider))


def _take(part: _Part, chosen: np.ndarray) -> _Part:
    return jax.tree.map(lambda array: array[chosen], part)


def _join(parts: Iterable[_Part]) -> _Part:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _blocks(count: int, width: int, num_latents: int) -> Iterator[tuple[np.ndarray, int]]:
    """The samples of each block, and how many it is padded to: as many as stay in cache, or 64 for less than 3 x 256."""
    few, some, many = SHAPES
    most = min(BLOCK // width**2, CORRELATIONS // num_latents)
    size = few if most < some else some if most < many or count < 3 * many else many
    for begin in range(0, count, size):
        yield np.arange(begin, min(begin + size, count)), size


@functools.partial(jax.jit, static_argnames=("nonneg", "with_gram"))
def _pose(dictionary, column, tol, limit, *, nonneg, with_gram):
    return pose(dictionary, column, tol=tol, limit=limit, nonneg=nonneg, with_gram=with_gram)


@functools.partial(jax.jit, static_argnames="num_slots", compiler_options=ALONE)
def _begin(problem, samples, init, *, num_slots):
    return working_set.begin(problem, samples, init, num_slots)


@functools.partial(jax.jit, static_argnames="num_slots")
def _widen(problem, state, *, num_slots):
    return slots.widen(problem, state, num_slots)


@functools.partial(jax.jit, compiler_options=ALONE)
def _advance(problem, state, least):
    new = working_set.advance(problem, state, least)
    return new, working_set.certify(problem, new), working_set.pending(new), new.full


@functools.partial(jax.jit, static_argnames="nonneg")
def _fista(signals, dictionary, lam, init, tol, max_iterations, *, nonneg):
    return fista.solve(signals, dictionary, lam, init, tol=tol, max_iterations=max_iterations, nonneg=nonneg)
