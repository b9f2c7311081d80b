"""The coders that are timed beside one another, ours and other libraries'; a new one is a function
and a line in `CODERS`.

A function prepares a problem, outside the time, and returns what is timed: a call that codes all
signals once and waits for the result. An absent library is an `ImportError`.
"""

import functools
import importlib
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
from sae_gap.solvers import sparse_code

Run = Callable[[], Any]
# The relative duality gap that certifies a code.
TARGET = 1e-6
# The efforts of a solver that stops by a tolerance.
TOLERANCES = (1e-2, 1e-4, TARGET)


class Coder(NamedTuple):
    """A way to code.

    Attributes:
      look: its label and its colour.
      prepare: a function of a problem and an effort that returns the call to time.
      efforts: how hard it tries, from quick to exact: tolerances or numbers of iterations. Tables
        show the last.
      at_most: signals that are timed; None times all. Those of a coder that takes one at a time
        tell the time of the rest.
    """

    look: Look
    prepare: Callable[[Problem, float], Run]
    efforts: tuple[float, ...]
    at_most: int | None = None


def _wait(code: Callable[..., Any], *arrays) -> Run:
    return lambda: jax.block_until_ready(code(*arrays))


def _arrays(problem: Problem):
    return devices.place(problem.signals, devices.mesh()), jnp.asarray(problem.dictionary)


def ours(problem: Problem, effort: float, *, solver: str) -> Run:
    """`sparse_code` to a tolerance."""
    return _wait(
        functools.partial(sparse_code, solver=solver, tol=effort), *_arrays(problem), problem.lam
    )


def jitted(problem: Problem, effort: float) -> Run:
    """`sparse_code` within `jax.jit`."""
    return _wait(
        jax.jit(functools.partial(sparse_code, tol=effort)), *_arrays(problem), problem.lam
    )


def on_support(problem: Problem, _: float) -> Run:
    """`sparse_code` on the supports of certified codes, found before: what values alone cost."""
    given = *_arrays(problem), problem.lam
    support = sparse_code(*given, sparse=True).codes
    return _wait(functools.partial(sparse_code, support=support), *given)


def spams_lars(problem: Problem, _: float, *, dtype: type = np.float32) -> Run:
    """The LARS of SPAMS in single or double precision, its Gram matrix in the time."""
    import spams

    columns: np.ndarray = np.asfortranarray(problem.signals.T, dtype)
    atoms: np.ndarray = np.asfortranarray(problem.dictionary, dtype)
    return lambda: spams.lasso(
        columns, D=atoms, lambda1=problem.lam, mode=2, pos=True, numThreads=-1
    )


def sklearn_cd(problem: Problem, effort: float) -> Run:
    """Scikit-learn's coordinate descent, all signals in one call with one Gram matrix."""
    from sklearn.linear_model import Lasso

    options = {"fit_intercept": False, "positive": True, "tol": effort, "precompute": True}
    model = Lasso(problem.lam / problem.dictionary.shape[0], **options)
    return _quietly(lambda: model.fit(problem.dictionary, problem.signals.T).coef_)


def one_by_one(problem: Problem, effort: float, *, library: str) -> Run:
    """Celer or skglm, one signal at a time, in double precision: in single they stop short of
    1e-6.
    """
    kind = importlib.import_module(library).Lasso
    atoms = np.asfortranarray(problem.dictionary, np.float64)
    signals = problem.signals.astype(np.float64)
    model = kind(
        alpha=problem.lam / len(atoms),
        tol=effort,
        max_iter=1_000,
        positive=True,
        fit_intercept=False,
    )
    return _quietly(
        lambda: np.stack([np.ravel(model.fit(atoms, signal).coef_) for signal in signals])
    )


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
    OURS: Coder(
        Look("working set", "#000000"),
        functools.partial(ours, solver="working_set"),
        TOLERANCES,
    ),
    JITTED: Coder(Look("under jit", "#666666"), jitted, (TARGET,)),
    "on_support": Coder(Look("on given supports", "#AAAA00"), on_support, (TARGET,)),
    "fista": Coder(Look("FISTA", "#56B4E9"), functools.partial(ours, solver="fista"), TOLERANCES),
    "spams": Coder(Look("SPAMS", "#117733"), spams_lars, (0,)),
    "spams_double": Coder(
        Look("SPAMS in double", "#009E73"), functools.partial(spams_lars, dtype=np.float64), (0,)
    ),
    "sklearn_cd": Coder(Look("scikit-learn CD", "#D55E00"), sklearn_cd, TOLERANCES),
    "celer": Coder(
        Look("celer", "#CC79A7"),
        functools.partial(one_by_one, library="celer"),
        TOLERANCES,
        at_most=10,
    ),
    "skglm": Coder(
        Look("skglm", "#AA4499"),
        functools.partial(one_by_one, library="skglm"),
        TOLERANCES,
        at_most=10,
    ),
}
labels.add("solver", {name: coder.look for name, coder in CODERS.items()})
