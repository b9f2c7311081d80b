"""The public sparse coder: picks a solver for a problem, splits it in chunks, and differentiates
the result.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jax.typing import ArrayLike

from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_choice, check_flag, check_integer, check_number, is_traced
from sae_gap.core.types import Solution
from sae_gap.runtime import sharding
from sae_gap.runtime.sharding import Layout
from sae_gap.solvers import fista, host, implicit, working_set
from sae_gap.solvers.problem import check_problem, on_host, scale_codes, scale_problem, unscale
from sae_gap.solvers.slots import Samples

# The names that `sparse_code` takes.
SOLVERS = ("auto", "working_set", "fista", "ista")
# Up to this many codes FISTA is done before XLA has compiled the working set.
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
    sparse: bool = False,
) -> Solution:
    """Code every signal by the lasso on a dictionary, with a certificate for each.

    Minimises `F(z) = ½‖y - D z‖² + Σ_j λ_j |z_j|`, over `z ≥ 0` if `nonneg`, until the duality gap
    is at most `tol F(z)`. May be called under `jit` and `vmap`; shapes are always checked, values
    only where they are known.

    Signals placed on a mesh by `sae_gap.runtime.devices.place` are coded each on its own device,
    and a dictionary placed by `place_dictionary` stays in parts. Within `jit` the axes `samples`
    and `latents` of the mesh of `jax.set_mesh` count.

    Args:
      signals: `(n, input_dim)`, float32 or float64.
      dictionary: `(input_dim, num_latents)`, atoms as columns, of any norm.
      lam: non-negative scalar, one value a sample `(n,)` or `(n, 1)`, one a coefficient
        `(num_latents,)` or `(1, num_latents)`, or `(n, num_latents)`.
      nonneg: whether codes are constrained to be non-negative.
      tol: duality gap to reach, relative to the objective. None runs the textbook iteration of
        `fista` or `ista` for exactly `max_iterations` steps from `init`, and `converged` then tells
        whether the gap is below 1e-6.
      max_iterations: iterations after which a sample is given up and reported as not converged.
        Those of `working_set` are products with the dictionary.
      init: `(n, num_latents)` codes to start from; None starts from zero.
      solver: one of `SOLVERS`.
      sparse: whether `Solution.codes` is a `scipy.sparse.csr_array`, (n, num_latents), so that
        codes of a million latents or of 100,000 samples fit in memory; not within a transformation
        of JAX.

    Returns:
      A `Solution`.

    Raises:
      ValueError: an argument has a wrong type, shape or value; the message says how to mend it.
    """
    targets, atoms, weights, first = check_problem(signals, dictionary, lam, init, nonneg)
    check_choice("solver", solver, SOLVERS)
    for name, flag in (("nonneg", nonneg), ("sparse", sparse)):
        check_flag(name, flag)
    if tol is not None:
        check_number("tol", tol, above=0, most=1e6)
    check_integer("max_iterations", max_iterations, least=0)
    if tol is None and solver == "working_set":
        raise ValueError(
            "tol=None asks for a fixed number of plain steps, but working_set has none; choose "
            "fista or ista."
        )
    arrays: Any = targets, atoms, weights, first, tol, max_iterations
    layout, traced = sharding.layout_of(targets, atoms), any(map(is_traced, arrays))
    here = _on_the_host(arrays)
    if solver == "auto":
        small = not here and targets.shape[0] * atoms.shape[1] <= SMALL_PROBLEM
        solver = "fista" if tol is None or small else "working_set"
    if (
        not here
        and not is_traced(max_iterations)
        and max_iterations == 0
        and solver == "working_set"
    ):
        # XLA's working set certifies other codes on the support of those that it is given; FISTA
        # those themselves.
        solver = "fista"
    if sparse and traced:
        raise ValueError(
            "sparse codes are no arrays of JAX, and cannot be traced; leave sparse out within jit, "
            "vmap and grad."
        )
    if solver == "working_set" and here and not traced:
        # Threads share the memory, so that samples on several CPU devices have the bits that they
        # have on one.
        solved = host.solve(*arrays, nonneg=bool(nonneg), sparse=bool(sparse))
        # Unlike `jnp.asarray`, `device_put` compiles nothing; one call for all arrays costs little
        # more than one for one.
        placed = (solved[0], *jax.device_put(solved[1:])) if sparse else jax.device_put(solved)
        return sharding.place_rows(Solution(*placed), targets)
    options = _Options(bool(nonneg), solver, tol is None, layout, here and layout is None)
    accuracy = jnp.asarray(1e-6 if tol is None else tol, targets.dtype)
    solve = _solve_sparse if sparse else _solve
    return solve(
        options, targets, atoms, weights, first, accuracy, jnp.asarray(max_iterations, jnp.int32)
    )


class _Options(NamedTuple):
    """What a program is compiled for: `fixed` asks for a fixed number of plain steps, `host` for
    calling back its coder.
    """

    nonneg: bool
    solver: str
    fixed: bool
    layout: Layout | None
    host: bool = False


def _on_the_host(arrays) -> bool:
    """Whether values lie in the memory of this process, where JAX would work on them; those that
    are traced will on a CPU.
    """
    if any(map(is_traced, arrays)):
        return jax.default_backend() == "cpu"
    placed = [array for array in arrays if isinstance(array, jax.Array)]
    return all(map(on_host, placed or [jax.device_put(np.zeros(()))]))


def _solve_sparse(options, targets, atoms, weights, first, tol, limit) -> Solution:
    """Solve chunk by chunk, so that no more dense codes are ever held."""
    num_samples, parts = targets.shape[0], 1 if options.layout is None else options.layout.num_parts
    size = parts * working_set.default_chunk(*atoms.shape)
    codes, certificates = [], []
    for begin in range(0, num_samples, size):
        chosen = slice(begin, begin + size)
        own = weights[chosen] if weights.shape[0] == num_samples else weights
        start = None if first is None else first[chosen]
        solved = _solve(options, targets[chosen], atoms, own, start, tol, limit)
        codes.append(scipy.sparse.csr_array(np.asarray(solved.codes)))
        certificates.append((solved.objective, solved.gap, solved.iterations, solved.converged))
    rest = jax.tree.map(lambda *parts: jnp.concatenate(parts), *certificates)
    return Solution(scipy.sparse.vstack(codes, format="csr"), *rest)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(
    options: _Options, signals, dictionary, lam, init, tol, max_iterations
) -> Solution:
    if options.host and options.solver == "working_set":
        return _call_back(options, signals, dictionary, lam, init, tol, max_iterations)
    problem = scale_problem(signals, dictionary, lam, equalise=not options.fixed)
    row = jnp.broadcast_to(problem.row, (len(signals), 1))
    shared = len(problem.column) == 1
    samples = Samples(problem.signals, row, None if shared else problem.column)
    size, layout = len(signals), options.layout
    if options.solver == "working_set":
        parts = 1 if layout is None or layout.latents is None else layout.mesh.shape[layout.latents]
        size = working_set.default_chunk(dictionary.shape[0], -(-dictionary.shape[1] // parts))

    def run(per_sample, *shared):
        return _in_chunks(lambda chunk: _run(options, *chunk, *shared), per_sample, size)

    per_sample = samples, None if init is None else scale_codes(init, problem)
    common = problem.dictionary, problem.column if shared else None, tol, max_iterations
    return unscale(sharding.by_device(run, layout, per_sample, *common), problem)


def _solve_forward(options, signals, dictionary, lam, init, tol, max_iterations):
    solution = _differentiable(options, signals, dictionary, lam, init, tol, max_iterations)
    return solution, (signals, dictionary, lam, solution.codes)


def _solve_backward(options, saved, bar):
    signals, dictionary, lam, codes = saved
    signals_bar, dictionary_bar, lam_bar = implicit.pull_back(
        signals, dictionary, codes, bar.codes, bar.objective, options.layout
    )
    spread = tuple(axis for axis in (0, 1) if lam.shape[axis] == 1)
    return (
        signals_bar,
        dictionary_bar,
        jnp.sum(lam_bar, axis=spread, keepdims=True),
        None,
        None,
        None,
    )


_differentiable.defvjp(_solve_forward, _solve_backward)
_solve = jax.jit(_differentiable, static_argnums=0)


def _call_back(options, *arrays) -> Solution:
    """The solution of the host's coder in a program of XLA, which has the same bits."""
    signals, dictionary = arrays[:2]
    n, dtype = len(signals), signals.dtype
    shapes = [
        ((n, dictionary.shape[1]), dtype),
        ((n,), dtype),
        ((n,), dtype),
        ((n,), jnp.int32),
        ((n,), bool),
    ]
    kinds = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def solve(*arrays):
        codes, value, gap, iterations, converged = host.solve(*arrays, nonneg=options.nonneg)
        # Nobody has checked traced values.
        signals, dictionary, lam = map(np.asarray, arrays[:3])
        sound = (
            np.isfinite(signals).all(axis=1)
            & np.isfinite(dictionary).all()
            & (np.isfinite(lam) & (lam >= 0)).all()
        )
        return codes, value, np.where(sound, gap, np.nan), iterations, converged & sound

    return Solution(*jax.pure_callback(solve, kinds, *arrays, vmap_method="sequential"))


def _run(options, samples, init, dictionary, column, tol, max_iterations):
    nonneg = options.nonneg
    if options.solver == "working_set":
        latents = None if options.layout is None else options.layout.latents
        limits = {"tol": tol, "max_iterations": max_iterations}
        return working_set.solve(
            samples, dictionary, column, init, **limits, nonneg=nonneg, latents=latents
        )
    signals, lam = samples.signals, samples.row * (samples.column if column is None else column)
    arrays, momentum = (signals, dictionary, lam, init), options.solver == "fista"
    if not options.fixed:
        return fista.solve(
            *arrays, tol=tol, max_iterations=max_iterations, nonneg=nonneg, momentum=momentum
        )
    codes = fista.fixed(*arrays, iterations=max_iterations, nonneg=nonneg, momentum=momentum)
    value, gap = lasso_problem.certificate(signals, dictionary, codes, lam, nonneg=nonneg)
    done = jnp.full(value.shape, max_iterations)
    return Solution(codes, value, gap, done, lasso_problem.is_converged(signals, value, gap, tol))


def _in_chunks(run, per_sample, chunk_size):
    """Apply `run` to slices of at most `chunk_size` samples, one after the other; the last is
    padded with zero signals.
    """
    num_samples = jax.tree.leaves(per_sample)[0].shape[0]
    if chunk_size >= num_samples:
        return run(per_sample)
    chunks = -(-num_samples // chunk_size)
    spare = chunks * chunk_size - num_samples

    def split(array):
        padded = jnp.pad(array, ((0, spare), (0, 0)))
        return padded.reshape(chunks, chunk_size, array.shape[1])

    solution = lax.map(run, jax.tree.map(split, per_sample))
    return jax.tree.map(
        lambda a: a.reshape(chunks * chunk_size, *a.shape[2:])[:num_samples], solution
    )
