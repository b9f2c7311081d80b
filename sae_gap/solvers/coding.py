"""The public sparse coder: picks a solver for a problem, splits it in chunks, and differentiates the result."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jax.typing import ArrayLike

from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_choice, check_flag, check_integer, check_number, check_size, is_traced
from sae_gap.core.types import Solution
from sae_gap.runtime import sharding
from sae_gap.runtime.sharding import Layout
from sae_gap.solvers import blocks, fista, implicit, ista, working_set
from sae_gap.solvers.problem import check_problem, scale_problem

# Beyond about as many, the rounding of bfloat16 is all that is left to gain.
ROUGH_ITERATIONS = 50
# The names that `sparse_code` takes.
SOLVERS = ("auto", "working_set", "fista", "ista")


# Up to this many codes FISTA is done before the working set is compiled.
SMALL_PROBLEM = 2**13


def sparse_code(
    signals: ArrayLike,
    dictionary: ArrayLike,
    lam: ArrayLike,
    *,
    nonneg: bool = True,
    tol: float | None = 1e-6,
    max_iterations: int = 20_000,
    init: ArrayLike | None = None,
    solver: str = "auto",
    chunk_size: int | None = None,
    bfloat16: bool = False,
    threads: int | None = None,
    sparse: bool = False,
) -> Solution:
    """Code every signal by the lasso on a dictionary, with a certificate for each.

    Minimises `F(z) = ½‖y - D z‖² + Σ_j λ_j |z_j|`, over `z ≥ 0` if `nonneg`, until the duality gap is at most
    `tol F(z)`. May be called under `jit` and `vmap`; shapes are always checked, values only where they are known.

    Of signals placed on a mesh by `sae_gap.runtime.devices.place` each device codes its own, and a dictionary placed by
    `place_dictionary` stays in parts. Within `jit` the axes `samples` and `latents` of the mesh of `jax.set_mesh` count.

    Args:
      signals: `(n, input_dim)`, float32 or float64.
      dictionary: `(input_dim, num_latents)`, atoms as columns, of any norm.
      lam: non-negative scalar, one value a sample `(n,)` or `(n, 1)`, one a coefficient `(num_latents,)` or
        `(1, num_latents)`, or `(n, num_latents)`.
      nonneg: whether codes are constrained to be non-negative.
      tol: duality gap to reach, relative to the objective. None runs the textbook iteration of `fista` or `ista` for exactly
        `max_iterations` steps from `init`, and `converged` then tells whether the gap is below 1e-6.
      max_iterations: iterations after which a sample is given up and reported as not converged.
      init: `(n, num_latents)` codes to start from; None starts from zero.
      solver: one of `SOLVERS`.
      chunk_size: samples solved at once, which bounds memory; None solves all together, or with `working_set` as many as
        need about a quarter of a gigabyte. On a CPU `working_set` has blocks of its own, and this has no effect.
      bfloat16: open with `ROUGH_ITERATIONS` of FISTA whose products round their factors to bfloat16, which accelerators
        multiply several times faster. The solver goes on from there, and the certificate is taken, at full precision.
      threads: blocks of samples that `working_set` works on at once on a CPU, whose number changes no bit of the result; None
        takes one for each core.
      sparse: whether `Solution.codes` is a `scipy.sparse.csr_array`, (n, num_latents), so that codes of a million latents or
        of 100,000 samples fit in memory; not within a transformation of JAX.

    Returns:
      A `Solution`.

    Raises:
      ValueError: an argument has a wrong type, shape or value; the message says how to mend it.
    """
    targets, atoms, weights, first = check_problem(signals, dictionary, lam, init, nonneg)
    check_choice("solver", solver, SOLVERS)
    for name, flag in (("nonneg", nonneg), ("bfloat16", bfloat16), ("sparse", sparse)):
        check_flag(name, flag)
    if tol is not None:
        check_number("tol", tol, above=0, most=1e6)
    check_integer("max_iterations", max_iterations, least=0)
    for name, count in (("chunk_size", chunk_size), ("threads", threads)):
        if count is not None:
            check_size(name, count)
    if tol is None and solver == "working_set":
        raise ValueError("tol=None asks for a fixed number of plain steps, which working_set has not; choose fista or ista.")
    if solver == "auto":
        small = targets.shape[0] * atoms.shape[1] <= SMALL_PROBLEM
        solver = "fista" if tol is None or small else "working_set"
    if solver == "working_set" and not is_traced(max_iterations) and max_iterations == 0:
        # Of no rounds there is nothing to certify; FISTA certifies the codes that it is given.
        solver = "fista"
    layout = sharding.layout_of(targets, atoms)
    if chunk_size is None and solver == "working_set":
        parts = 1 if layout is None or layout.latents is None else layout.mesh.shape[layout.latents]
        chunk_size = working_set.default_chunk(atoms.shape[0], -(-atoms.shape[1] // parts))
    if tol is None and bfloat16:
        raise ValueError("tol=None asks for a fixed number of plain steps, which are not rounded; leave bfloat16 out.")
    options = _Options(bool(nonneg), solver, tol is None, chunk_size, bool(bfloat16), layout)
    accuracy = jnp.asarray(1e-6 if tol is None else tol, targets.dtype)
    arrays = targets, atoms, weights, first, accuracy, max_iterations
    if sparse and not all(array is None or not is_traced(array) for array in arrays):
        raise ValueError("sparse codes are no arrays of JAX, and cannot be traced; leave sparse out within jit, vmap and grad.")
    if solver == "working_set" and not bfloat16 and _on_the_host(arrays):
        # Threads share the memory, so that samples on several CPU devices have the bits that they have on one.
        given = [None if array is None else np.asarray(array) for array in (targets, atoms, weights, first)]
        found = _solve_on_the_host(given, accuracy, int(max_iterations), bool(nonneg), threads, sparse)
        return sharding.place_rows(found, targets)
    limit = jnp.asarray(max_iterations, jnp.int32)
    if sparse:
        return _solve_sparse(options, targets, atoms, weights, first, accuracy, limit)
    return _solve(options, targets, atoms, weights, first, accuracy, limit)


def _on_the_host(arrays) -> bool:
    """Whether all values are known and lie in the memory of this process, where threads can work on them."""
    known = [array for array in arrays if array is not None]
    if not all(not is_traced(array) for array in known):
        return False
    placed = [array for array in known if isinstance(array, jax.Array)]
    return all(array.is_fully_addressable and next(iter(array.devices())).platform == "cpu" for array in placed)


def _solve_on_the_host(given, tol, max_iterations, nonneg, threads, sparse) -> Solution:
    targets, atoms, weights, first = given
    problem = _scale(targets, atoms, weights)
    found = blocks.solve(
        problem.signals,
        problem.dictionary,
        jnp.broadcast_to(problem.row, (targets.shape[0], 1)),
        problem.column,
        None if first is None else _scale_codes(first, problem),
        tol=tol,
        max_iterations=max_iterations,
        nonneg=nonneg,
        threads=threads,
        sparse=sparse,
    )
    return _unscale_sparse(found, problem) if sparse else _unscale(found, problem)


def _solve_sparse(options, targets, atoms, weights, first, tol, limit) -> Solution:
    """Chunk by chunk, of whose dense codes no more are held; each has samples of every device."""
    num_samples, layout = targets.shape[0], options.layout
    parts = 1 if layout is None else layout.num_parts
    size = options.chunk_size or working_set.default_chunk(*atoms.shape)
    rows = np.resize(np.arange(num_samples), -(-num_samples // parts) * parts).reshape(parts, -1)
    found, order = [], []
    for begin in range(0, rows.shape[1], size):
        chosen = slice(begin, begin + size)
        arrays = targets, weights, first
        target, own, start = (sharding.rows_of_parts(array, layout, chosen, num_samples) for array in arrays)
        solved = _solve(options, target, atoms, own, start, tol, limit)
        found.append(dataclasses.replace(solved, codes=scipy.sparse.csr_array(np.asarray(solved.codes))))
        order.append(rows[:, chosen].ravel())
    _, place = np.unique(np.concatenate(order), return_index=True)
    fields = {field.name: [getattr(part, field.name) for part in found] for field in dataclasses.fields(Solution)}
    codes = scipy.sparse.vstack(fields.pop("codes"), format="csr")[place]
    return Solution(codes=codes, **{name: jnp.concatenate(arrays)[place] for name, arrays in fields.items()})


class _Options(NamedTuple):
    nonneg: bool
    solver: str
    fixed: bool
    chunk_size: int | None
    bfloat16: bool = False
    layout: Layout | None = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(options: _Options, signals, dictionary, lam, init, tol, max_iterations) -> Solution:
    problem = scale_problem(signals, dictionary, lam, equalise=not options.fixed)
    init = None if init is None else _scale_codes(init, problem)

    def run(per_sample, *shared):
        return _in_chunks(lambda chunk: _run(options, chunk, *shared), per_sample, options.chunk_size)

    own = problem.column.shape[0] > 1
    row = jnp.broadcast_to(problem.row, (signals.shape[0], 1))
    per_sample = (problem.signals, row, problem.column if own else None, init)
    shared = (problem.dictionary, None if own else problem.column, tol, max_iterations)
    return _unscale(sharding.by_device(run, options.layout, per_sample, *shared), problem)


_scale = jax.jit(functools.partial(scale_problem, equalise=True))


@jax.jit
def _scale_codes(codes, problem):
    """Given codes in the units of the scaled problem, those of atoms that are zero left out."""
    return jnp.where(jnp.any(problem.dictionary != 0, axis=0), codes, 0) / problem.signal_scale * problem.atom_scale


@jax.jit
def _unscale(solution, problem):
    scale = problem.signal_scale
    # One scale after the other, since their quotient may overflow where a code of zero stays zero.
    codes = lax.optimization_barrier(solution.codes * scale) / problem.atom_scale
    held = jnp.all(_held(solution.codes, codes), axis=1)
    return Solution(
        codes=codes,
        objective=solution.objective * scale[:, 0] ** 2,
        gap=solution.gap * scale[:, 0] ** 2,
        iterations=solution.iterations,
        converged=solution.converged & held,
    )


def _held(scaled, codes):
    """Whether a code, certified in the units of the scaled problem, neither overflows nor vanishes in those of the caller."""
    return (scaled == 0) | ((abs(codes) >= jnp.finfo(codes.dtype).tiny) & (abs(codes) < math.inf))


def _unscale_sparse(solution, problem):
    """The same for codes as a sparse array; every scale is a power of two, and exact."""
    codes, scale = solution.codes, np.asarray(problem.signal_scale)[:, 0]
    sample = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    with np.errstate(over="ignore", under="ignore"):
        data = codes.data * scale[sample] / np.asarray(problem.atom_scale)[0, codes.indices]
    held = np.ones(codes.shape[0], bool)
    held[sample[~_held(codes.data, data)]] = False
    return Solution(
        codes=scipy.sparse.csr_array((data, codes.indices, codes.indptr), shape=codes.shape),
        objective=solution.objective * scale**2,
        gap=solution.gap * scale**2,
        iterations=solution.iterations,
        converged=solution.converged & held,
    )


def _solve_forward(options, signals, dictionary, lam, init, tol, max_iterations):
    solution = _differentiable(options, signals, dictionary, lam, init, tol, max_iterations)
    return solution, (signals, dictionary, lam, solution.codes)


def _solve_backward(options, saved, bar):
    signals, dictionary, lam, codes = saved
    signals_bar, dictionary_bar, lam_bar = implicit.pull_back(
        signals, dictionary, codes, bar.codes, bar.objective, options.layout
    )
    spread = tuple(axis for axis in (0, 1) if lam.shape[axis] == 1)
    return signals_bar, dictionary_bar, jnp.sum(lam_bar, axis=spread, keepdims=True), None, None, None


_differentiable.defvjp(_solve_forward, _solve_backward)
_solve = jax.jit(_differentiable, static_argnums=0)


def _run(options, chunk, dictionary, shared_column, tol, max_iterations):
    signals, row, column, init = chunk
    nonneg = options.nonneg
    lam = row * (shared_column if column is None else column)
    if options.bfloat16:
        steps = jnp.minimum(ROUGH_ITERATIONS, max_iterations)
        init = fista.fixed(signals, dictionary, lam, init, iterations=steps, nonneg=nonneg, bfloat16=True)
    if options.solver == "working_set":
        return working_set.solve(
            signals,
            dictionary,
            row if column is None else row * column,
            init,
            tol=tol,
            max_iterations=max_iterations,
            nonneg=nonneg,
            atom_weights=shared_column,
            latents=None if options.layout is None else options.layout.latents,
        )
    module = {"fista": fista, "ista": ista}[options.solver]
    if options.fixed:
        codes = module.fixed(signals, dictionary, lam, init, iterations=max_iterations, nonneg=nonneg)
        value, gap = lasso_problem.certificate(signals, dictionary, codes, lam, nonneg=nonneg)
        done = jnp.full(value.shape, max_iterations)
        return Solution(codes, value, gap, done, lasso_problem.is_converged(signals, value, gap, tol))
    return module.solve(signals, dictionary, lam, init, tol=tol, max_iterations=max_iterations, nonneg=nonneg)


def _in_chunks(run, per_sample, chunk_size):
    """Apply `run` to slices of at most `chunk_size` samples, one after the other; the last is padded with zero signals."""
    num_samples = per_sample[0].shape[0]
    if chunk_size is None or chunk_size >= num_samples:
        return run(per_sample)
    chunks = -(-num_samples // chunk_size)
    spare = chunks * chunk_size - num_samples

    def split(array):
        padded = jnp.pad(array, ((0, spare), (0, 0)))
        return padded.reshape(chunks, chunk_size, array.shape[1])

    solution = lax.map(run, jax.tree.map(split, per_sample))
    return jax.tree.map(lambda a: a.reshape(chunks * chunk_size, *a.shape[2:])[:num_samples], solution)
