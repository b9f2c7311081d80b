"""The public sparse coder: picks a solver, splits the problem in chunks, and differentiates the
result.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.sharding import AbstractMesh, Mesh
from jax.typing import ArrayLike

from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_choice, check_flag, check_integer, check_number, is_traced
from sae_gap.core.types import Solution
from sae_gap.runtime import sharding
from sae_gap.solvers import fista, host, implicit, working_set
from sae_gap.solvers.problem import check_problem, on_host, scale_codes, scale_problem, unscale
from sae_gap.solvers.slots import Samples

# The names that `sparse_code` takes.
SOLVERS = ("auto", "working_set", "working_set_xla", "fista", "ista")


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

    Minimises `F(z) = ½‖y - D z‖² + Σ_j λ_j |z_j|`, over `z ≥ 0` if `nonneg`, until the duality gap
    is at most `tol F(z)`. May be called under `jit` and `vmap`; shapes are always checked, values
    only where they are known.

    Signals placed on a mesh by `sae_gap.runtime.devices.place` are each coded on their own device.
    Within `jit` the mesh of `jax.set_mesh` counts.

    Args:
      signals: `(n, input_dim)`, float32 or float64.
      dictionary: `(input_dim, num_latents)`, atoms as columns, of any norm.
      lam: non-negative scalar, one value for each sample `(n,)` or `(n, 1)`, one for each
        coefficient `(num_latents,)` or `(1, num_latents)`, or `(n, num_latents)`.
      nonneg: whether codes are constrained to be non-negative.
      tol: duality gap to reach, relative to the objective. None runs the textbook iteration of
        `fista` or `ista` for exactly `max_iterations` steps from `init`; `converged` then tells
        whether the gap is below 1e-6.
      max_iterations: iterations after which the solver gives up on a sample and reports it as not
        converged; for `working_set`, products with the dictionary.
      init: `(n, num_latents)` codes to start from; None starts from zero.
      solver: one of `SOLVERS`. `working_set` runs compiled loops on values in a CPU's memory, and a
        program of XLA elsewhere; `working_set_xla` runs that program on any device. `auto` is
        `working_set`, or `fista` for `tol=None`.
      sparse: whether `Solution.codes` is a `scipy.sparse.csr_array`, (n, num_latents), so that
        codes of a million latents or of 100,000 samples fit in memory; not within a transformation
        of JAX.
      support: the latents that may differ from zero in each sample, as the non-zero entries of an
        array or a sparse array, `(n, num_latents)`; None for all. The gap is then the gap of the
        problem on the support. If values are known, the time grows with the size of the support:
        nothing is multiplied with the whole dictionary, and the coder of `auto` uses neither `init`
        nor `max_iterations`. With `lam=0` the codes are the least squares on the support,
        non-negative if `nonneg`, without a certificate: a weight of zero leaves no room for
        rounding.

    Returns:
      A `Solution`.

    Raises:
      ValueError: an argument has a wrong type, shape or value; the message says how to mend it.
    """
    targets, atoms, weights, first = check_problem(signals, dictionary, lam, init, nonneg)
    if support is not None:
        if not (scipy.sparse.issparse(support) or isinstance(support, jax.Array)):
            support = np.asarray(support)
        shape = len(targets), atoms.shape[1]
        if support.shape != shape or support.dtype.kind not in "biuf":
            raise ValueError(
                f"support must be numbers or booleans of shape (n, num_latents) = {shape}, that of "
                f"the codes, but it has shape {support.shape} and type {support.dtype}; reshape or "
                "convert it."
            )
    check_choice("solver", solver, SOLVERS)
    for name, flag in (("nonneg", nonneg), ("sparse", sparse)):
        check_flag(name, flag)
    if tol is not None:
        check_number("tol", tol, above=0, most=1e6)
    check_integer("max_iterations", max_iterations, least=0)
    by_xla = solver == "working_set_xla"
    solver = "working_set" if by_xla else solver
    if tol is None and solver == "working_set":
        raise ValueError(
            "tol=None asks for a fixed number of plain steps, but working_set has none; choose "
            "fista or ista."
        )
    mesh = sharding.mesh_of(targets, atoms)
    arrays: Any = targets, atoms, weights, first, tol, max_iterations
    traced = any(map(is_traced, (*arrays, support)))
    here = not by_xla and runs_on_host((*arrays, support))
    own = None
    if support is not None:
        exact = solver in ("auto", "working_set") and tol is not None
        if exact and not traced and (here or mesh is None):
            # On any device: a tableau in float32 cannot separate atoms that hardly differ, and at a
            # weight of zero no certificate would show it.
            own, solver, here = _stored(support), "working_set", True
        else:
            dense = support.toarray() if scipy.sparse.issparse(support) else support
            if first is None and exact and (is_traced(max_iterations) or max_iterations):
                # These codes open the working sets.
                first = (dense != 0).astype(targets.dtype)
            weights, first = _forbid(targets, atoms, weights, first, dense)
            arrays = targets, atoms, weights, first, tol, max_iterations
    if solver == "auto":
        solver = "fista" if tol is None else "working_set"
    certifies = not is_traced(max_iterations) and max_iterations == 0 and own is None
    if not here and certifies and solver == "working_set":
        # With `max_iterations=0` the working set would solve again on the support; FISTA certifies
        # the codes as given.
        solver = "fista"
    if sparse and traced:
        raise ValueError(
            "sparse codes are no arrays of JAX, and cannot be traced; leave sparse out within jit, "
            "vmap and grad."
        )
    if solver == "working_set" and here and not traced:
        # Threads share the memory, so samples on several CPU devices have the same bits as on one.
        solved = host.solve(*arrays, nonneg=bool(nonneg), sparse=bool(sparse), support=own)
        # Unlike `jnp.asarray`, `device_put` compiles nothing; one call for all arrays costs little
        # more than a call for one.
        placed = (solved[0], *jax.device_put(solved[1:])) if sparse else jax.device_put(solved)
        return sharding.place_rows(Solution(*placed), targets)
    options = _Options(bool(nonneg), solver, tol is None, mesh, here and mesh is None)
    accuracy = jnp.asarray(1e-6 if tol is None else tol, targets.dtype)
    limit = jnp.asarray(max_iterations, jnp.int32)
    solve = _solve_sparse if sparse else _solve
    if solver == "working_set" and not traced and mesh is None:
        solve = functools.partial(_solve_apart, sparse)
    return solve(options, targets, atoms, weights, first, accuracy, limit)


class _Options(NamedTuple):
    """Static options of a program: `fixed` takes a fixed number of plain steps, `host` calls back
    the host's coder.
    """

    nonneg: bool
    solver: str
    fixed: bool
    mesh: Mesh | AbstractMesh | None
    host: bool = False


def runs_on_host(arrays) -> bool:
    """Tells whether JAX would work on the values in this process's memory; traced values count if
    the default backend is the CPU.
    """
    placed = [array for array in arrays if isinstance(array, jax.Array)]
    if placed and not any(map(is_traced, arrays)):
        return all(map(on_host, placed))
    # The option is a device, a platform's name or None.
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (getattr(chosen, "platform", chosen) or jax.default_backend()) == "cpu"


def _stored(support: Any) -> scipy.sparse.csr_array:
    """A support as a sparse array that stores exactly its non-zero entries."""
    if scipy.sparse.issparse(support):
        stored = scipy.sparse.csr_array(support)
        if not (stored.has_canonical_format and stored.data.all()):
            stored = stored.copy()
            stored.sum_duplicates()
            stored.eliminate_zeros()
        return stored
    on = np.asarray(support) != 0
    # In one dimension NumPy finds the entries several times as fast.
    places, ends = np.flatnonzero(on), np.cumsum(np.count_nonzero(on, axis=1))
    parts = np.ones(len(places), bool), places % on.shape[1], np.append(0, ends)
    return scipy.sparse.csr_array(parts, on.shape)


@jax.jit
def _forbid(targets, atoms, weights, first, support):
    """The weights that keep codes on a support, larger off it than any correlation, and the first
    codes on it.
    """
    on = support != 0
    most = 2 * len(atoms) * jnp.max(jnp.abs(atoms), axis=0)
    most = jnp.max(jnp.abs(targets), axis=1, keepdims=True) * most
    beyond = jax.lax.stop_gradient(jnp.clip(most, 1, jnp.finfo(most.dtype).max / 4))
    begun = None if first is None else jnp.where(on, first, 0)
    return jnp.where(on, weights, beyond), begun


def _solve_apart(sparse, options, targets, atoms, weights, first, tol, limit) -> Solution:
    """Solves in batches, each by the program for the number of slots that its samples need."""
    problem = _scaled(targets, atoms, weights, equalise=True)
    samples, column, init = _posed(problem, first)
    given = samples, problem.dictionary, column, init
    batches = working_set.solve_apart(*given, tol=tol, limit=limit, nonneg=options.nonneg)
    shape = len(targets), atoms.shape[1], targets.dtype
    if not sparse:
        solution = working_set.empty(*shape)
        for rows, batch in batches:
            solution = working_set.put(solution, rows, batch)
        return unscale(solution, problem)
    found = host.Found(*shape)
    for rows, batch in batches:
        inside = rows < len(targets)
        rows, batch = rows[inside], jax.tree.map(lambda a, inside=inside: a[inside], batch)
        places, code, *rest = map(np.asarray, batch)
        row, slot = np.nonzero(code)
        found.put(rows[row], places[row, slot], code[row, slot])
        found.objective[rows], found.gap[rows], found.iterations[rows] = rest[:3]
        found.converged[rows] = rest[3]
    scales = np.asarray(problem.signal_scale)[:, 0], np.asarray(problem.atom_scale)[0]
    codes, *certificates = found.unscaled(*scales, sparse=True)
    return Solution(codes, *jax.device_put(certificates))


def _solve_sparse(options, targets, atoms, weights, first, tol, limit) -> Solution:
    """Solves chunk by chunk, so that only one chunk of dense codes is held at a time."""
    num_samples, parts = targets.shape[0], 1 if options.mesh is None else options.mesh.size
    size = parts * max(1, working_set.ROOM // atoms.shape[1])
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
    samples, column, begun = _posed(problem, init)

    def run(per_sample, *shared):
        return _run(options, *per_sample, *shared)

    common = problem.dictionary, column, tol, max_iterations
    found = unscale(sharding.by_device(run, options.mesh, (samples, begun), *common), problem)
    return _checked(found, signals, dictionary, lam)


def _checked(found, signals, dictionary, lam) -> Solution:
    """The solution, with NaN for samples whose values make no lasso: nobody has checked traced
    values.
    """
    xp = signals.__array_namespace__()
    sound = xp.isfinite(signals).all(axis=1) & xp.isfinite(dictionary).all()
    sound &= (xp.isfinite(lam) & (lam >= 0)).all(axis=1)
    codes = xp.where(sound[:, None], found.codes, xp.nan)
    value, gap = (xp.where(sound, each, xp.nan) for each in (found.objective, found.gap))
    return Solution(codes, value, gap, found.iterations, found.converged & sound)


def _posed(problem, init) -> tuple[Samples, Any, Any]:
    """The samples, the factors on their weights if these are shared, and the first codes."""
    row = jnp.broadcast_to(problem.row, (len(problem.signals), 1))
    shared = len(problem.column) == 1
    samples = Samples(problem.signals, row, None if shared else problem.column)
    begun = None if init is None else scale_codes(init, problem)
    return samples, problem.column if shared else None, begun


def _solve_forward(options, signals, dictionary, lam, init, tol, max_iterations):
    solution = _differentiable(options, signals, dictionary, lam, init, tol, max_iterations)
    # A sample left out of a loss must not spoil the gradients of the others.
    lost = jnp.isnan(solution.objective)[:, None]
    signals, codes = (jnp.where(lost, 0, each) for each in (signals, solution.codes))
    return solution, (signals, dictionary, lam, codes)


def _solve_backward(options, saved, bar):
    signals, dictionary, lam, codes = saved
    signals_bar, dictionary_bar, lam_bar = implicit.pull_back(
        signals, dictionary, codes, bar.codes, bar.objective, options.mesh
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
_scaled = jax.jit(scale_problem, static_argnames="equalise")


def _call_back(options, *arrays) -> Solution:
    """The host coder's solution within a program of XLA, bit for bit the same."""
    signals, dictionary = arrays[:2]
    shape = len(signals), dictionary.shape[1], signals.dtype
    kinds = jax.eval_shape(lambda: working_set.empty(*shape))

    def solve(*arrays):
        found = Solution(*host.solve(*arrays, nonneg=options.nonneg))
        return _checked(found, *map(np.asarray, arrays[:3]))

    return jax.pure_callback(solve, kinds, *arrays, vmap_method="sequential")


def _run(options, samples, init, dictionary, column, tol, max_iterations):
    nonneg = options.nonneg
    if options.solver == "working_set":
        options = {"tol": tol, "limit": max_iterations, "nonneg": nonneg}
        return working_set.solve(samples, dictionary, column, init, **options)
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
