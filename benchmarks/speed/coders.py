"""The coders that are timed beside one another, ours and other libraries'; a new one is a function and a line in `CODERS`.

A function prepares a problem, outside the time, and returns what is timed: a call that codes all signals once and waits for
the result. An absent library is an `ImportError`, a problem that a coder cannot have a `ValueError`.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.problems import Problem
from sae_gap.core.registry import Look
from sae_gap.figures import labels
from sae_gap.runtime import devices
from sae_gap.solvers import orthogonal_matching_pursuit, sparse_code

Run = Callable[[], Any]
# The relative duality gap that certifies a code.
TARGET = 1e-6


class Coder(NamedTuple):
    """A way to code.

    Attributes:
      look: its label and its colour.
      prepare: a function of a problem and an effort that returns the call to time.
      efforts: how hard it tries, from quick to exact: tolerances or numbers of iterations. Tables show the last.
      lasso: whether it minimises the lasso; a greedy coder has no gap, and is scored by its error and its L0.
      at_most: signals that are timed; None times all. Those of a coder that takes one at a time tell the time of the rest.
    """

    look: Look
    prepare: Callable[[Problem, float], Run]
    efforts: tuple[float, ...]
    lasso: bool = True
    at_most: int | None = None


def _wait(code: Callable[..., Any], *arrays) -> Run:
    return lambda: jax.block_until_ready(code(*arrays))


def _arrays(problem: Problem):
    return devices.place(problem.signals, devices.mesh()), jnp.asarray(problem.dictionary)


def ours(problem: Problem, effort: float, *, solver: str) -> Run:
    """`sparse_code` to a tolerance."""
    return _wait(functools.partial(sparse_code, solver=solver, tol=effort), *_arrays(problem), problem.lam)


def jitted(problem: Problem, effort: float) -> Run:
    """`sparse_code` within `jax.jit`."""
    return _wait(jax.jit(functools.partial(sparse_code, tol=effort)), *_arrays(problem), problem.lam)


def plain_fista(problem: Problem, effort: float) -> Run:
    """FISTA for a number of iterations, with products by the dictionary."""
    code = functools.partial(sparse_code, solver="fista", tol=None, max_iterations=int(effort))
    return _wait(code, *_arrays(problem), problem.lam)


def paper_fista(problem: Problem, effort: float) -> Run:
    """The published loop for a number of iterations."""
    return _wait(_paper_fista, *_arrays(problem), problem.lam, int(effort))


@jax.jit
def _paper_fista(signals, dictionary, lam, iterations):
    """Textbook FISTA with the Gram matrix of all atoms."""
    gram, target = dictionary.T @ dictionary, signals @ dictionary
    step = 1 / jnp.linalg.norm(dictionary, 2) ** 2

    def body(_, carry):
        codes, point, t = carry
        new = jnp.maximum(point - step * (point @ gram - target) - step * lam, 0)
        t_new = 0.5 * (1 + jnp.sqrt(1 + 4 * t**2))
        return new, new + (t - 1) / t_new * (new - codes), t_new

    start = jnp.zeros_like(target)
    return jax.lax.fori_loop(0, iterations, body, (start, start, jnp.ones(())))[0]


def spams_lars(problem: Problem, _: float, *, dtype: type = np.float32) -> Run:
    """The LARS of SPAMS in single or double precision, its Gram matrix in the time."""
    import spams

    columns: np.ndarray = np.asfortranarray(problem.signals.T, dtype)
    atoms: np.ndarray = np.asfortranarray(problem.dictionary, dtype)
    return lambda: spams.lasso(columns, D=atoms, lambda1=problem.lam, mode=2, pos=True, numThreads=-1)


def sklearn_cd(problem: Problem, effort: float) -> Run:
    """Scikit-learn's coordinate descent, all signals in one call with one Gram matrix."""
    from sklearn.linear_model import Lasso

    options = {"fit_intercept": False, "positive": True, "tol": effort, "precompute": True}
    model = Lasso(problem.lam / problem.dictionary.shape[0], **options)
    return _quietly(lambda: model.fit(problem.dictionary, problem.signals.T).coef_)


def sklearn_lars(problem: Problem, _: float) -> Run:
    """Scikit-learn's LARS."""
    from sklearn.decomposition import sparse_encode

    options = {"algorithm": "lasso_lars", "alpha": problem.lam, "positive": True}
    return _quietly(lambda: sparse_encode(problem.signals, problem.dictionary.T, **options))


def celer(problem: Problem, effort: float) -> Run:
    """Celer, which solves the signed and the non-negative lasso, one signal at a time."""
    from celer import Lasso

    return _one_by_one(Lasso, problem, effort)


def skglm(problem: Problem, effort: float) -> Run:
    """Skglm, which solves the signed and the non-negative lasso, one signal at a time."""
    from skglm import Lasso

    return _one_by_one(Lasso, problem, effort)


def _one_by_one(kind: Callable[..., Any], problem: Problem, tol: float) -> Run:
    """A solver of one target in the manner of scikit-learn, in double precision: in single they stop short of 1e-6."""
    atoms = np.asfortranarray(problem.dictionary, np.float64)
    signals = problem.signals.astype(np.float64)
    model = kind(alpha=problem.lam / len(atoms), tol=tol, max_iter=1_000, positive=True, fit_intercept=False)
    return _quietly(lambda: np.stack([np.ravel(model.fit(atoms, signal).coef_) for signal in signals]))


def jaxopt(problem: Problem, effort: float) -> Run:
    """Jaxopt's proximal gradient, mapped over the signals."""
    import jaxopt

    def smooth(z, data):
        return 0.5 * jnp.sum((data[0] - data[1] @ z) ** 2)

    @jax.jit
    def fit(signals, dictionary, lam):
        solver = jaxopt.ProximalGradient(smooth, jaxopt.prox.prox_non_negative_lasso, tol=effort, maxiter=2_000)
        start = jnp.zeros(dictionary.shape[1])
        return jax.vmap(lambda signal: solver.run(start, lam, (signal, dictionary)).params)(signals)

    return _wait(fit, *_arrays(problem), problem.lam)


def omp(problem: Problem, _: float) -> Run:
    """Our orthogonal matching pursuit, as many atoms as a signal has; codes are signed."""
    return _wait(functools.partial(orthogonal_matching_pursuit, num_atoms=_atoms(problem)), *_arrays(problem))


def spams_omp(problem: Problem, _: float) -> Run:
    """The orthogonal matching pursuit of SPAMS, as many atoms as a signal has; codes are signed."""
    import spams

    count, columns = _atoms(problem), np.asfortranarray(problem.signals.T)
    atoms = np.asfortranarray(problem.dictionary)
    # A residual to stop at must be named: without one SPAMS takes whatever lies in memory for it, and may return zeros.
    return lambda: spams.omp(columns, atoms, L=count, eps=0.0, numThreads=-1)


def sklearn_omp(problem: Problem, _: float) -> Run:
    """Scikit-learn's orthogonal matching pursuit on a Gram matrix, in the time; codes are signed."""
    from sklearn.linear_model import orthogonal_mp_gram

    count, atoms = _atoms(problem), problem.dictionary

    def code():
        found = orthogonal_mp_gram(atoms.T @ atoms, atoms.T @ problem.signals.T, n_nonzero_coefs=count)
        return found.reshape(atoms.shape[1], -1).T

    return _quietly(code)


def _atoms(problem: Problem) -> int:
    if problem.sparsity < 1:
        raise ValueError("it needs the number of atoms of a signal, which files do not tell")
    return min(problem.sparsity, len(problem.dictionary))


def _quietly(run: Run) -> Run:
    """Without the warnings of libraries: the accuracy that they did reach is in the table."""

    def quiet():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run()

    return quiet


def codes_of(result: Any) -> np.ndarray:
    """The codes in whatever a coder returns, as `(n, num_latents)`."""
    if hasattr(result, "toarray"):
        return result.toarray().T
    codes = np.asarray(getattr(result, "codes", result))
    return codes.reshape(-1, codes.shape[-1])


OURS, JITTED = "working_set", "jitted"
CODERS = {
    OURS: Coder(Look("working set", "#000000"), functools.partial(ours, solver="working_set"), (1e-2, 1e-4, 1e-6)),
    JITTED: Coder(Look("under jit", "#666666"), jitted, (TARGET,)),
    "fista": Coder(Look("FISTA", "#56B4E9"), functools.partial(ours, solver="fista"), (1e-2, 1e-4, 1e-6)),
    "plain_fista": Coder(Look("plain FISTA", "#0072B2"), plain_fista, (10, 30, 300, 100)),
    "paper_fista": Coder(Look("published FISTA", "#332288"), paper_fista, (100,)),
    "spams": Coder(Look("SPAMS", "#117733"), spams_lars, (0,)),
    "spams_double": Coder(Look("SPAMS in double", "#009E73"), functools.partial(spams_lars, dtype=np.float64), (0,)),
    "sklearn_cd": Coder(Look("scikit-learn CD", "#D55E00"), sklearn_cd, (1e-2, 1e-4, 1e-6)),
    "sklearn_lars": Coder(Look("scikit-learn LARS", "#E69F00"), sklearn_lars, (0,)),
    "celer": Coder(Look("celer", "#CC79A7"), celer, (1e-2, 1e-4, 1e-6), at_most=10),
    "skglm": Coder(Look("skglm", "#AA4499"), skglm, (1e-2, 1e-4, 1e-6), at_most=10),
    "jaxopt": Coder(Look("jaxopt", "#661100"), jaxopt, (1e-5,)),
    "omp": Coder(Look("OMP", "#882255"), omp, (0,), lasso=False),
    "spams_omp": Coder(Look("SPAMS OMP", "#44AA99"), spams_omp, (0,), lasso=False),
    "sklearn_omp": Coder(Look("scikit-learn OMP", "#888888"), sklearn_omp, (0,), lasso=False),
}
labels.add("solver", {name: coder.look for name, coder in CODERS.items()})
