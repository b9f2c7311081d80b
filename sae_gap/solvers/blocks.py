"""The working set on a CPU: blocks of samples on threads, in programs of few shapes, with slots as many as a sample needs.

A block is as many samples as have their tableaus in cache together. It is left when half of its samples are done;
these are gathered, and go on in new blocks. Samples that fill their slots go on with twice as many. Those whose certificate
is out of reach of single precision are solved again in double, and what is left even then by FISTA. Which samples share a block
depends on the problem alone, never on the threads, and so do the bits of the codes.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from sae_gap.core.types import Solution
from sae_gap.runtime.cores import cores
from sae_gap.solvers import fista, slots, working_set
from sae_gap.solvers.polish import polish
from sae_gap.solvers.slots import State
from sae_gap.solvers.spread_atoms import Problem, pose, wants_gram

FEWEST_SLOTS = 32
# Samples in flight at once, and floats of their tableaus and of their correlations with all atoms.
IN_FLIGHT = 8_192
TABLEAUS = 2**26
CORRELATIONS = 2**24
# Floats of the tableaus of a block: those of two threads stay in cache.
BLOCK = 2**18
# Samples that a block is padded to, of few numbers, as each is compiled.
SHAPES = (16, 64, 256)
# A block keeps to its thread, so that its bits do not depend on how many cores there are; and the last tenths of speed are not
# worth the seconds that they cost in compiling; JAX_DISABLE_MOST_OPTIMIZATIONS, which saves more of them, stays in force.
ALONE: dict[str, bool | int] = {"xla_cpu_multi_thread_eigen": False}
if not jax.config.values.get("jax_disable_most_optimizations"):
    ALONE["xla_backend_optimization_level"] = 1


class _Given(NamedTuple):
    """What belongs to each sample; `column` where it has weights of its own for every atom."""

    signals: np.ndarray | Array
    row: np.ndarray | Array
    column: np.ndarray | Array | None
    init: np.ndarray | Array | None


@dataclasses.dataclass
class _Found:
    """What a `Solution` is made of, codes by slot; every block writes rows of its own. A free slot has value 0."""

    num_latents: int
    latents: np.ndarray
    values: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray

    @classmethod
    def create(cls, num_samples: int, num_latents: int, dtype: np.dtype) -> "_Found":
        def zeros(kind, *width):
            return np.zeros((num_samples, *width), kind)

        slots = zeros(np.int32, FEWEST_SLOTS), zeros(dtype, FEWEST_SLOTS)
        return cls(num_latents, *slots, zeros(dtype), zeros(dtype), zeros(np.int32), zeros(bool))

    def widen(self, width: int) -> None:
        """Have at least so many slots; no thread may write meanwhile."""
        spare = ((0, 0), (0, width - self.values.shape[1]))
        if spare[1][1] > 0:
            self.latents, self.values = np.pad(self.latents, spare), np.pad(self.values, spare)

    def put(self, rows: np.ndarray, latents: np.ndarray, values: np.ndarray) -> None:
        """Write codes down by slot, of which there are enough."""
        width = values.shape[1]
        self.latents[rows, :width], self.values[rows, :width], self.values[rows, width:] = latents, values, 0

    def put_dense(self, rows: np.ndarray, codes: np.ndarray) -> None:
        """Write down codes of all latents; no thread may write meanwhile."""
        width = int(np.max(np.count_nonzero(codes, axis=1), initial=1))
        self.widen(width)
        latents = np.argsort(codes == 0, axis=1, kind="stable")[:, :width]
        self.put(rows, latents, np.take_along_axis(codes, latents, axis=1))

    def put_certificate(self, rows: np.ndarray, objective, gap, iterations, converged) -> None:
        """Write down what else is known; iterations are added up."""
        self.objective[rows], self.gap[rows], self.converged[rows] = objective, gap, converged
        self.iterations[rows] += iterations

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Codes of all latents."""
        values, codes = self.values[rows], np.zeros((len(rows), self.num_latents), self.values.dtype)
        row, slot = np.nonzero(values)
        codes[row, self.latents[rows[row], slot]] = values[row, slot]
        return codes

    def sparse(self) -> scipy.sparse.csr_array:
        """Codes of all samples, the latents of each ascending."""
        used = self.values != 0
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(used, axis=1))])
        shape = len(self.values), self.num_latents
        codes = scipy.sparse.csr_array((self.values[used], self.latents[used], starts), shape=shape)
        codes.sort_indices()
        return codes


class _Task(NamedTuple):
    """What all blocks work on, and where they put down what they find."""

    problem: Problem
    given: _Given
    found: _Found


class _Samples(NamedTuple):
    """Samples on their way, and what they have so far: None before they begin."""

    rows: np.ndarray
    state: State | None


def solve(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    row: Float[Array, "n 1"],
    column: Float[Array, "rows num_latents"],
    init: Float[Array, "n num_latents"] | None = None,
    *,
    tol: Float[Array, ""] | float,
    max_iterations: int,
    nonneg: bool = True,
    threads: int | None = None,
    sparse: bool = False,
) -> Solution:
    """Solve the lasso of `working_set.solve` on the host, where all values are known; atoms should be of about unit norm.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      row: `(n, 1)` weights of the samples.
      column: `(1, num_latents)` factors on them, or `(n, num_latents)`.
      init: `(n, num_latents)` codes whose largest entries open the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: rounds, and then iterations of FISTA for the samples left to it, after which a sample is given up.
      nonneg: whether codes are constrained to be non-negative.
      threads: blocks worked on at once; None takes one for each core.
      sparse: whether codes are returned as a `scipy.sparse.csr_array`, and never held otherwise.

    Returns:
      A `Solution`; its `iterations` count rounds, of one product each, plus the iterations of FISTA.
    """
    num_samples, num_latents = signals.shape[0], dictionary.shape[1]
    shared, own = (column, None) if column.shape[0] == 1 else (None, column)
    given = jax.tree.map(np.asarray, _Given(signals, row, own, init))
    dtype = given.signals.dtype
    found = _Found.create(num_samples, num_latents, dtype)

    def left():
        return np.flatnonzero(~found.converged & (found.iterations < max_iterations))

    for precision in sorted({dtype, np.dtype(np.float64)}, key=lambda each: each.itemsize):
        rows = left()
        if not len(rows):
            break
        with jax.enable_x64(precision == np.float64), concurrent.futures.ThreadPoolExecutor(threads or cores()) as pool:
            atoms, factors = (None if array is None else np.asarray(array, precision) for array in (dictionary, shared))
            with_gram = wants_gram(num_latents, len(rows))
            problem = _pose(atoms, factors, tol, max_iterations, nonneg=nonneg, with_gram=with_gram)
            widths = _widths(problem, num_latents, given.init)
            if precision != dtype:
                # They are few, and a program less to compile is worth more than slots that fit.
                widths = [width for width in widths if width >= 4 * FEWEST_SLOTS] or widths[-1:]
            for begin in range(0, len(rows), IN_FLIGHT):
                samples = _Samples(rows[begin : begin + IN_FLIGHT], None)
                found.widen(widths[0])
                _climb(_Task(problem, given, found), samples, widths, map if threads == 1 else pool.map)
        if precision == np.float32:
            _polish(_Task(problem, given, found), left(), np.asarray(column), float(tol))
    rows = left()
    for part in (rows[begin : begin + SHAPES[-1]] for begin in range(0, len(rows), SHAPES[-1])):
        padded = np.resize(part, SHAPES[-1])
        lam = given.row[padded] * (np.asarray(column) if given.column is None else given.column[padded])
        solved = _fista(given.signals[padded], dictionary, lam, found.dense(padded), tol, max_iterations, nonneg=nonneg)
        codes, *rest = (np.asarray(array)[: len(part)] for array in vars(solved).values())
        found.put_dense(part, codes)
        found.put_certificate(part, *rest)
    certificates = (jnp.asarray(array) for array in (found.objective, found.gap, found.iterations, found.converged))
    return Solution(found.sparse() if sparse else jnp.asarray(found.dense(np.arange(num_samples))), *certificates)


def _polish(task: _Task, rows: np.ndarray, column: np.ndarray, tol: float) -> None:
    """Certify in double what is left of samples that are near the optimum."""
    given, found = task.given, task.found
    rows = rows[np.any(found.values[rows] != 0, axis=1)]
    if not len(rows):
        return
    atoms = np.asarray(task.problem.atoms, np.float64)[: found.num_latents]
    for part in (rows[begin : begin + min(SHAPES)] for begin in range(0, len(rows), min(SHAPES))):
        own = column if given.column is None else given.column[part]
        arrays = (np.asarray(array) for array in (given.signals[part], atoms, given.row[part], own, found.dense(part)))
        polished = polish(*arrays, tol=tol, nonneg=task.problem.nonneg)
        met = polished.converged
        found.put_dense(part[met], polished.codes[met])
        found.put_certificate(part[met], polished.objective[met], polished.gap[met], 1, True)


def _widths(problem: Problem, num_latents: int, init: np.ndarray | Array | None) -> list[int]:
    """Numbers of slots, each twice the last, up to where any support fits; the first has room for a typical start."""
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


def _climb(task: _Task, samples: _Samples, widths: list[int], run: Callable) -> None:
    """Work on samples until each is done; those that fill their slots then go on together with twice as many."""
    filled: list[_Samples] = []
    precise = task.problem.atoms.dtype == np.float64
    while len(samples.rows):
        blocks = list(_blocks(len(samples.rows), widths[0], task.problem.atoms.shape[0]))
        last = len(blocks) == 1

        def work(block, samples=samples, last=last):
            part, size = block
            # A thread does not inherit the precision that its maker is in.
            with jax.enable_x64(precise):
                return _work(task, _take(samples, part), size, 0 if last else len(part) // 2, widths)

        full, samples = (_join(parts) for parts in zip(*run(work, blocks), strict=True))
        filled.append(full)
    full = _join(filled)
    if len(full.rows):
        most = max(1, TABLEAUS // widths[1] ** 2)
        for part in np.array_split(np.arange(len(full.rows)), -(-len(full.rows) // most)):
            task.found.widen(widths[1])
            _climb(task, _take(full, part), widths[1:], run)


def _work(task: _Task, samples: _Samples, size: int, least: int, widths: list[int]) -> tuple[_Samples, _Samples]:
    """Bring a block on, write down what is found, and return the samples whose slots are full and the others still open."""
    count = len(samples.rows)
    padded = np.resize(np.arange(count), size)
    if samples.state is None:
        dtype = task.problem.atoms.dtype
        own = jax.tree.map(lambda array: np.asarray(array[samples.rows[padded]], dtype), task.given)
        state = _begin(task.problem, *own, num_slots=widths[0])
    else:
        state = _take(samples, padded).state
    if state.code.shape[1] < widths[0]:
        state = _widen(task.problem, state, num_slots=widths[0])
    state = state._replace(done=np.asarray(state.done) | (np.arange(size) >= count))
    brought = _advance(task.problem, state, least)
    state, certified, open_yet = jax.tree.map(lambda array: np.asarray(array)[:count], brought)
    wider = state.full & ~state.done & (len(widths) > 1)
    over = ~open_yet & ~wider
    taken = np.flatnonzero(over)
    task.found.put(samples.rows[taken], state.places[taken], (state.sign * state.code)[taken])
    task.found.put_certificate(samples.rows[taken], *(array[taken] for array in certified))
    left = _Samples(samples.rows, state)
    return _take(left, np.flatnonzero(wider)), _take(left, np.flatnonzero(open_yet & ~wider))


def _take(samples: _Samples, part: np.ndarray) -> _Samples:
    return jax.tree.map(lambda array: array[part], samples)


def _join(parts: Iterable[_Samples]) -> _Samples:
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
def _begin(problem, signals, row, own, init, *, num_slots):
    return working_set.begin(problem, signals, row, own, init, num_slots)


@functools.partial(jax.jit, static_argnames="num_slots")
def _widen(problem, state, *, num_slots):
    return slots.widen(problem, state, num_slots)


@functools.partial(jax.jit, compiler_options=ALONE)
def _advance(problem, state, least):
    new = working_set.advance(problem, state, least)
    return new, working_set.certify(problem, new), working_set.pending(new)


@functools.partial(jax.jit, static_argnames="nonneg")
def _fista(signals, dictionary, lam, init, tol, max_iterations, *, nonneg):
    return fista.solve(signals, dictionary, lam, init, tol=tol, max_iterations=max_iterations, nonneg=nonneg)


__all__ = ["solve"]
