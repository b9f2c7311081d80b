"""The public sparse coder: picks an engine, splits the problem in chunks, and differentiates the
result.

On a CPU, a mesh of one process included, `host` runs compiled loops, which programs of XLA call
back. Elsewhere, traced on a mesh and over processes `fista` iterates as a program of XLA, in chunks
that memory sets.
"""

from collections import namedtuple
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, ShapeDtypeStruct, device_put
from jax.lax import optimization_barrier
from jax.numpy import where
from jax.typing import ArrayLike
from scipy.sparse import csr_array, vstack

from sae_gap.core import (
    Solution,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    is_traced,
    slices,
)
from sae_gap.core.lasso_problem import certificate, is_converged
from sae_gap.runtime.sharding import by_device, in_batches, mesh_of, place_rows
from sae_gap.solvers import (
    check_problem,
    fista,
    host,
    implicit,
    lengths,
    on_host,
    power_of_two,
)

# The names that `sparse_code` takes.
SOLVERS = ("auto", "fista", "ista")
# Floats of the iterates of a chunk of samples, 2 GiB in float32, and arrays of codes that a step
# needs.
ROOM = 2**29
ARRAYS = 12


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
    support: Any = None,
) -> Solution:
    """Codes every signal by the lasso on a dictionary, with a certificate for each.

    Minimises `F(z) = ½‖y - D z‖² + λ‖z‖₁`, over `z ≥ 0` if `nonneg`, until the duality gap
    is at most `tol F(z)`. May be called under `jit` and `vmap`; shapes are always checked, values
    only where they are known.

    Signals placed on a mesh by `sae_gap.runtime.devices.place` are each coded on their own device.
    Within `jit` the mesh of `jax.set_mesh` counts.

    Args:
      signals: `(n, input_dim)`, float32 or float64.
      dictionary: `(input_dim, num_latents)`, atoms as columns, of any norm.
      lam: non-negative scalar, or one value for each sample, `(n,)` or `(n, 1)`.
      nonneg: whether codes are constrained to be non-negative.
      tol: duality gap to reach, relative to the objective. None runs the textbook iteration of
        `fista` or `ista` for exactly `max_iterations` steps from `init`; `converged` then tells
        whether the gap is below 1e-6.
      max_iterations: after these it gives up on a sample and reports it as not converged: products
        with the dictionary of the compiled loops, at least one, else iterations, rounded up to the
        next check.
      init: `(n, num_latents)` codes to start from; None starts from zero.
      solver: one of `SOLVERS`. `auto` runs compiled loops on a CPU and batched FISTA elsewhere;
        `fista` and `ista` iterate on any device.
      sparse: whether `Solution.codes` is a `csr_array`, (n, num_latents), so that
        codes of a million latents or of 100,000 samples fit in memory; not within a transformation
        of JAX.
      support: the latents that may differ from zero in each sample, as the non-zero entries of an
        array `(n, num_latents)`; None for all. The gap is then the gap of the
        problem on the support. `auto` solves on known supports by the compiled loops, whatever the
        device. These take a time that grows with the size of the support, and use neither `init`
        nor `max_iterations`. With `lam=0` the codes are the least squares on the support,
        non-negative if `nonneg`, without a certificate: a weight of zero leaves no room for
        rounding.

    Returns:
      A `Solution`.

    Raises:
      ValueError: an argument has a wrong type, shape or value; the message says how to mend it.
    """
    targets, atoms, weights, first = check_problem(
        signals, dictionary, lam, init, nonneg
    )
    if support is not None:
        support = support if isinstance(support, Array) else np.asarray(support)
        shape = len(targets), atoms.shape[1]
        if support.shape != shape or support.dtype.kind not in "biuf":
            raise ValueError(
                f"support must be numbers or booleans of shape (n, num_latents) = {shape}, that of "
                f"the codes, but it has shape {support.shape} and type {support.dtype}; reshape or "
                "convert it."
            )
    check_choice("solver", solver, SOLVERS)
    check_flag("nonneg", nonneg)
    check_flag("sparse", sparse)
    if tol is not None:
        check_number("tol", tol, above=0, most=1e6)
    check_integer("max_iterations", max_iterations, least=0)
    mesh = mesh_of(targets, atoms)
    arrays = targets, atoms, weights, support, first, tol, max_iterations
    traced = any(map(is_traced, arrays))
    if sparse and traced:
        raise ValueError(
            "sparse codes are no arrays of JAX, and cannot be traced; leave sparse out within jit, "
            "vmap and grad."
        )
    # Traced on a mesh, each device iterates on its own samples. Threads share the memory, so known
    # samples on several CPU devices have the same bits as on one. At a weight of zero no iteration
    # would know its end, so known supports are solved here.
    compiled = solver == "auto" and tol is not None and (mesh is None or not traced)
    known = support is not None and mesh is None and not traced
    compiled = compiled and (known or runs_on_host(arrays))
    if compiled and not traced:
        codes, *rest = host.solve(*arrays, nonneg=bool(nonneg), sparse=bool(sparse))
        # Unlike `jnp.asarray`, `device_put` compiles nothing; one call for all arrays costs little
        # more than a call for one.
        placed = (codes, *device_put(rest)) if sparse else device_put((codes, *rest))
        return place_rows(Solution(*placed), targets)
    options = _Options(bool(nonneg), solver != "ista", tol is None, compiled, mesh)
    ends = (
        jnp.asarray(1e-6 if tol is None else tol, targets.dtype),
        jnp.asarray(max_iterations, jnp.int32),
    )
    if not sparse:
        return _solve(options, targets, atoms, weights, support, first, *ends)
    # Only one chunk of dense codes is held at a time.
    size = (1 if mesh is None else mesh.size) * max(1, ROOM // atoms.shape[1])
    parts = []
    for rows in slices(len(targets), size):
        y, on, start, lam = (
            each if each is None or len(each) == 1 else each[rows]
            for each in (targets, support, first, weights)
        )
        codes, *rest = jax.tree.leaves(_solve(options, y, atoms, lam, on, start, *ends))
        parts.append((csr_array(np.asarray(codes)), *rest))
    every, *certificates = zip(*parts, strict=True)
    stacked = vstack(every, format="csr")
    return Solution(stacked, *map(jnp.concatenate, certificates))


# Static options of a program: `fixed` takes a fixed number of plain steps, `compiled` calls back
# the compiled loops.
_Options = namedtuple("_Options", "nonneg momentum fixed compiled mesh")


def runs_on_host(arrays) -> bool:
    """Tells whether JAX would work on the values in this process's memory; traced values count if
    the default backend is the CPU.
    """
    placed = [array for array in arrays if isinstance(array, Array)]
    if placed and not any(map(is_traced, arrays)):
        return all(map(on_host, placed))
    # The option is a device, a platform's name or None.
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (getattr(chosen, "platform", chosen) or jax.default_backend()) == "cpu"


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(options, signals, dictionary, lam, support, init, *ends):
    if options.compiled:
        return _call_back(options, signals, dictionary, lam, support, init, *ends)
    by_row = signals, jnp.broadcast_to(lam, (len(signals), 1)), support, init
    run = partial(_iterate, options)
    found = by_device(run, options.mesh, by_row, dictionary, *ends)
    return _checked(found, signals, dictionary, lam)


def _checked(found, signals, dictionary, lam):
    """The solution, with NaN for samples whose values make no lasso: nobody has checked traced
    values.
    """
    xp = signals.__array_namespace__()
    sound = xp.isfinite(signals).all(axis=1) & xp.isfinite(dictionary).all()
    sound &= (xp.isfinite(lam) & (lam >= 0)).all(axis=1)
    codes = xp.where(sound[:, None], found.codes, xp.nan)
    value, gap = (
        xp.where(sound, each, xp.nan) for each in (found.objective, found.gap)
    )
    return Solution(codes, value, gap, found.iterations, found.converged & sound)


def _solve_forward(options, *arrays):
    solution = _differentiable(options, *arrays)
    # A sample left out of a loss must not spoil the gradients of the others.
    lost = jnp.isnan(solution.objective)[:, None]
    signals, codes = (where(lost, 0, each) for each in (arrays[0], solution.codes))
    return solution, (signals, *arrays[1:3], codes)


def _solve_backward(options, saved, bar):
    signals, dictionary, lam, codes = saved
    *bars, lam_bar = implicit.pull_back(
        signals, dictionary, codes, bar.codes, bar.objective, options.mesh
    )
    spread = (0, 1) if len(lam) == 1 else (1,)
    return *bars, jnp.sum(lam_bar, axis=spread, keepdims=True), None, None, None, None


_differentiable.defvjp(_solve_forward, _solve_backward)
_solve = jax.jit(_differentiable, static_argnums=0)


def _call_back(options, *arrays):
    """The solution of the compiled loops within a program of XLA, bit for bit the same."""
    (num_samples, _) = arrays[0].shape
    dtype = arrays[0].dtype
    kinds = (
        ShapeDtypeStruct((num_samples,), kind) for kind in (dtype, dtype, "i4", bool)
    )
    results: Any = (
        ShapeDtypeStruct((num_samples, arrays[1].shape[1]), dtype),
        *kinds,
    )

    def solve(*arrays):
        found = Solution(*host.solve(*arrays, nonneg=options.nonneg))
        return _checked(found, *map(np.asarray, arrays[:3]))

    return jax.pure_callback(
        solve, Solution(*results), *arrays, vmap_method="sequential"
    )


def _iterate(options, by_row, dictionary, tol, limit):
    """Solves by FISTA or ISTA, chunk by chunk, in units in which signals and atoms are of order
    one.

    With `y' = y / s` and `d' = d / a` the weight is `λ' = λ / s / a`, and codes are `z = z' s / a`.
    Scales are powers of two, hence exact: what is certified for the scaled problem holds for the
    given one.
    """
    length = lengths(dictionary.T)[None]
    if options.fixed:
        # The textbook keeps the atoms' relative lengths.
        length = jnp.full_like(length, jnp.max(length))
    atoms = dictionary / length
    largest = jnp.finfo(dictionary.dtype).max / 4
    signs = {"nonneg": options.nonneg, "momentum": options.momentum}

    def chunk(by_row):
        signals, lam, support, init = by_row
        scale = power_of_two(jnp.max(jnp.abs(signals), axis=1, keepdims=True))
        # Barriers keep divisions apart: the compiler would divide by a product, which may overflow
        # or underflow. A weight beyond any correlation must not become an infinity.
        weight = jnp.minimum(optimization_barrier(lam / scale) / length, largest)
        on = jnp.any(atoms != 0, axis=0)
        if support is not None:
            on = on & (support != 0)
            weight = where(on, weight, largest)
        if init is None:
            init = jnp.zeros((len(signals), atoms.shape[1]), signals.dtype)
        else:
            init = where(on, optimization_barrier(init / scale) * length, 0)
        given = signals / scale, atoms, weight, init
        if options.fixed:
            codes = fista.fixed(*given, iterations=limit, **signs)
            value, gap = certificate(
                given[0], atoms, codes, weight, nonneg=options.nonneg
            )
            good = is_converged(given[0], value, gap, tol)
            found = Solution(codes, value, gap, jnp.full(value.shape, limit), good)
        else:
            found = fista.solve(*given, tol=tol, max_iterations=limit, **signs)
        # One scale after the other: their quotient may overflow where a zero code stays zero.
        codes = optimization_barrier(found.codes * scale) / length
        # A code that overflows or underflows is not the certified one.
        size = jnp.abs(codes)
        fits = (size >= jnp.finfo(codes.dtype).tiny) & jnp.isfinite(size)
        exact = (found.codes == 0) | fits
        value, gap = (each * scale[:, 0] ** 2 for each in (found.objective, found.gap))
        good = found.converged & jnp.all(exact, axis=1) & jnp.isfinite(value)
        return Solution(codes, value, gap, found.iterations, good)

    size = max(1, ROOM // (ARRAYS * dictionary.shape[1]))
    return in_batches(chunk, by_row, size)
