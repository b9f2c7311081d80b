"""The working set on a CPU: blocks of samples on threads, in programs of few shapes, with slots as many as a sample needs.

A block is as many samples as have their tableaus in cache together. It is left when half of its samples are done;
these are gathered, and go on in new blocks. Samples that fill their slots go on with twice as many. Those whose certificate
is out of reach of single precision are solved again in double, and what is left even then by FISTA. Which samples share a block
depends on the problem alone, never on the threads, and so do the bits of the codes.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sae_gap.solvers import fista, slots, working_set
from sae_gap.solvers.polish import polish
from sae_gap.solvers.slots import Problem, State
from sae_gap.types import Solution

FEWEST_SLOTS = 32
# Samples in flight at once, and floats of their tableaus and of their correlations with all atoms.
IN_FLIGHT = 8_192
TABLEAUS = 2**26
CORRELATIONS = 2**24
# Floats of the tableaus of a block: those of two threads stay in cache.
BLOCK = 2**18
# Samples that a block is padded to, of few numbers, as each is compiled.
SHAPES = (16, 64, 256)
# A block keeps to its thread, so that its bits do not depend on how many cores there are.
ALONE = {"xla_cpu_multi_thread_eigen": False}


class _Given(NamedTuple):
    """What belongs to each sample; `column` where it has weights of its own for every atom."""

    signals: np.ndarray | Array
    row: np.ndarray | Array
    column: np.ndarray | Array | None
    init: np.ndarray | Array | None


class _Found(NamedTuple):
    """What a `Solution` is made of; every block writes rows of its own."""

    codes: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray


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
) -> Solution:
    """Solve the lasso of `working_set.solve` on the host, where all values are known; atoms should be of about unit norm.

    Args:
      signals: ``(n, input_dim)``.
      dictionary: ``(input_dim, num_latents)``.
      row: ``(n, 1)`` weights of the samples.
      column: ``(1, num_latents)`` factors on them, or ``(n, num_latents)``.
      init: ``(n, num_latents)`` codes whose largest entries open the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: rounds, and then iterations of FISTA for the samples left to it, after which a sample is given up.
      nonneg: whether codes are constrained to be non-negative.
      threads: blocks worked on at once; None takes one for each core.

    Returns:
      A `Solution`; its `iterations` count rounds, of one product each, plus the iterations of FISTA.
    """
    num_samples, num_latents = signals.shape[0], dictionary.shape[1]
    shared, own = (column, None) if column.shape[0] == 1 else (None, column)
    given = jax.tree.map(np.asarray, _Given(signals, row, own, init))
    dtype = given.signals.dtype
    found = _Found(
        codes=np.zeros((num_samples, num_latents), dtype),
        objective=np.zeros(num_samples, dtype),
        gap=np.zeros(num_samples, dtype),
        iterations=np.zeros(num_samples, np.int32),
        converged=np.zeros(num_samples, bool),
    )

    def left():
        return np.flatnonzero(~found.converged & (found.iterations < max_iterations))

    for precision in sorted({dtype, np.dtype(np.float64)}, key=lambda each: each.itemsize):
        rows = left()
        if not len(rows):
            break
        with jax.enable_x64(precision == np.float64), concurrent.futures.ThreadPoolExecutor(threads or _cores()) as pool:
            atoms, factors = (None if array is None else np.asarray(array, precision) for array in (dictionary, shared))
            with_gram = slots.wants_gram(num_latents, len(rows))
            problem = _pose(atoms, factors, tol, max_iterations, nonneg=nonneg, with_gram=with_gram)
            widths = _widths(problem, num_latents, given.init)
            if precision != dtype:
                # They are few, and a program less to compile is worth more than slots that fit.
                widths = [width for width in widths if width >= 4 * FEWEST_SLOTS] or widths[-1:]
            for begin in range(0, len(rows), IN_FLIGHT):
                samples = _Samples(rows[begin : begin + IN_FLIGHT], None)
                _climb(_Task(problem, given, found), samples, widths, map if threads == 1 else pool.map)
        if precision == np.float32:
            _polish(_Task(problem, given, found), left(), np.asarray(column), float(tol), threads)
    rows = left()
    for part in (rows[begin : begin + SHAPES[-1]] for begin in range(0, len(rows), SHAPES[-1])):
        padded = np.resize(part, SHAPES[-1])
        lam = given.row[padded] * (np.asarray(column) if given.column is None else given.column[padded])
        solved = _fista(given.signals[padded], dictionary, lam, found.codes[padded], tol, max_iterations, nonneg=nonneg)
        _write(found, part, *(np.asarray(array)[: len(part)] for array in vars(solved).values()))
    return Solution(*(jnp.asarray(array) for array in found))


def _polish(task: _Task, rows: np.ndarray, column: np.ndarray, tol: float, threads: int | None) -> None:
    """Certify in double what is left of samples with a settled support."""
    rows = rows[np.any(task.found.codes[rows] != 0, axis=1)]
    if not len(rows):
        return
    num_latents = column.shape[1]
    atoms = np.asarray(task.problem.atoms, np.float64)[:num_latents]

    def work(part):
        given, codes = task.given, task.found.codes[part]
        own = column if given.column is None else given.column[part]
        polished = polish(given.signals[part], atoms, given.row[part], own, codes, tol=tol, nonneg=task.problem.nonneg)
        met = polished.converged
        _write(task.found, part[met], *(array[met] for array in polished[:3]), 1, True)

    with concurrent.futures.ThreadPoolExecutor(threads or _cores()) as pool:
        list(pool.map(work, (rows[begin : begin + min(SHAPES)] for begin in range(0, len(rows), min(SHAPES)))))


def _write(found: _Found, rows: np.ndarray, codes: np.ndarray, *rest: np.ndarray | int | bool) -> None:
    """Put down what is known of samples; their iterations are added up."""
    objective, gap, iterations, converged = rest
    found.codes[rows], found.objective[rows], found.gap[rows] = codes, objective, gap
    found.iterations[rows] += iterations
    found.converged[rows] = converged


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """Work on samples until each is done, with more slots for those that fill theirs."""
    while len(samples.rows):
        blocks = list(_blocks(len(samples.rows), widths[0], task.problem.atoms.shape[0]))

        last, precise = len(blocks) == 1, task.problem.atoms.dtype == np.float64

        def work(block, samples=samples, last=last, precise=precise):
            part, size = block
            # A thread does not inherit the precision that its maker is in.
            with jax.enable_x64(precise):
                return _work(task, _take(samples, part), size, 0 if last else len(part) // 2, widths)

        full, rest = (_join(parts) for parts in zip(*run(work, blocks), strict=True))
        if len(full.rows):
            most = max(1, TABLEAUS // widths[1] ** 2)
            for part in np.array_split(np.arange(len(full.rows)), -(-len(full.rows) // most)):
                _climb(task, _take(full, part), widths[1:], run)
        samples = rest


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
    codes = np.zeros((len(taken), task.found.codes.shape[1]), task.found.codes.dtype)
    held, slot = np.nonzero(state.code[taken])
    codes[held, state.places[taken[held], slot]] = (state.sign * state.code)[taken[held], slot]
    _write(task.found, samples.rows[taken], codes, *(array[taken] for array in certified))
    left = _Samples(samples.rows, state)
    return _take(left, np.flatnonzero(wider)), _take(left, np.flatnonzero(open_yet & ~wider))


def _take(samples: _Samples, part: np.ndarray) -> _Samples:
    return jax.tree.map(lambda array: array[part], samples)


def _join(parts: Iterable[_Samples]) -> _Samples:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _blocks(count: int, width: int, num_latents: int) -> Iterator[tuple[np.ndarray, int]]:
    """The samples of each block, and how many it is padded to: four blocks at least where there are samples for it."""
    most = max(min(SHAPES), min(BLOCK // width**2, CORRELATIONS // num_latents))
    # As compiling costs more than padding, only the narrowest slots have blocks of two sizes.
    sizes = [shape for shape in SHAPES if shape <= most][1 if most >= max(SHAPES) else -1 :]
    size = next(shape for shape in (*sizes, max(sizes)) if shape >= min(max(sizes), -(-count // 4)))
    for begin in range(0, count, size):
        part = np.arange(begin, min(begin + size, count))
        yield part, next(shape for shape in sizes if shape >= len(part))


@functools.partial(jax.jit, static_argnames=("nonneg", "with_gram"))
def _pose(dictionary, column, tol, limit, *, nonneg, with_gram):
    return slots.pose(dictionary, column, tol=tol, limit=limit, nonneg=nonneg, with_gram=with_gram)


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
