"""The coders that are timed beside each other, ours and other libraries'; add one as a function and
a line in `CODERS`.

A function prepares a problem, untimed, and returns the call to time, which codes all signals once
and waits for the result. A missing library raises an `ImportError`.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.problems import Problem
from sae_gap.runtime import devices
from sae_gap.solvers import sparse_code

Run = Callable[[], Any]
# The relative duality gap that certifies a code.
TARGET = 1e-6


class Coder(NamedTuple):
    """A way to code.

    Attributes:
      prepare: a function of a problem that returns the call to time.
      at_most: number of signals to time; None times all. For a coder that takes one at a time, the
        total is extrapolated from them.
    """

    prepare: Callable[[Problem], Run]
    at_most: int | None = None


def ours(problem: Problem, code: Callable[..., Any] = sparse_code) -> Run:
    """`sparse_code` to its own tolerance, which is `TARGET`."""
    signals = devices.place(problem.signals, devices.mesh())
    arrays = signals, jnp.asarray(problem.dictionary), problem.lam
    return lambda: jax.block_until_ready(code(*arrays))


def jitted(problem: Problem) -> Run:
    """The same under `jax.jit`."""
    return ours(problem, jax.jit(sparse_code))


def spams_lars(problem: Problem) -> Run:
    """The LARS of SPAMS in single precision, timed with its Gram matrix."""
    import spams

    columns, atoms = np.asfortranarray(problem.signals.T), np.asfortranarray(problem.dictionary)
    return lambda: spams.lasso(
        columns, D=atoms, lambda1=problem.lam, mode=2, pos=True, numThreads=-1
    )


def celer(problem: Problem) -> Run:
    """Celer, one signal at a time, in double precision: single does not reach 1e-6."""
    from celer import Lasso

    atoms = np.asfortranarray(problem.dictionary, np.float64)
    options = {"max_iter": 1_000, "positive": True, "fit_intercept": False}
    model = Lasso(alpha=problem.lam / len(atoms), tol=TARGET, **options)

    def run():
        # It warns that it misses its accuracy, which the table shows.
        with warnings.catch_warnings(action="ignore"):
            signals = problem.signals.astype(np.float64)
            return np.stack([np.ravel(model.fit(atoms, signal).coef_) for signal in signals])

    return run


def codes_of(result: Any) -> np.ndarray:
    """The codes in a coder's result, as `(n, num_latents)`."""
    if hasattr(result, "toarray"):
        return result.toarray().T
    return np.asarray(getattr(result, "codes", result))


OURS = "working_set"
CODERS = {
    OURS: Coder(ours),
    "jitted": Coder(jitted),
    "spams": Coder(spams_lars),
    "celer": Coder(celer, at_most=10),
}
