"""The timed problems, signals and a dictionary of some world and a weight; and the coders that are
timed beside each other, ours and other libraries'.

Add a coder as a function and a line in `CODERS`. A function prepares a problem, untimed, and
returns the call to time, which codes all signals once and waits for the result. A missing library
raises an `ImportError`.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.data import Setting
from sae_gap.runtime import devices
from sae_gap.solvers import sparse_code

Run = Callable[[], Any]


class Cell(NamedTuple):
    """One problem: signals of some world, and a weight.

    Args:
      num_latents: atoms.
      sparsity: atoms in each signal.
      num_samples: signals.
      lam: weight of the l1 norm.
      world: `paper`, that of `sae_gap.draw`; or `coherent`, see `coherent`.
      input_dim: dimensions; None takes the world's.
      lam_fraction: weight as a fraction of the median λ_max of the signals, instead of `lam`.
    """

    num_latents: int = 1_000
    sparsity: int = 10
    num_samples: int = 2_500
    lam: float = 0.1
    world: str = "paper"
    input_dim: int | None = None
    lam_fraction: float | None = None


class Problem(NamedTuple):
    """The input of a coder.

    Attributes:
      signals: `(n, input_dim)`, float32.
      dictionary: `(input_dim, num_latents)`, float32, atoms of unit norm as columns.
      lam: weight of the l1 norm.
    """

    signals: np.ndarray
    dictionary: np.ndarray
    lam: float


# The cells timed by default.
TABLE = (
    Cell(),
    Cell(num_latents=100),
    Cell(num_latents=10_000, num_samples=500),
    *(Cell(sparsity=sparsity) for sparsity in (2, 5, 50, 100)),
    *(Cell(lam=lam) for lam in (0.01, 0.001)),
    *(Cell(num_samples=count) for count in (100, 1)),
    *(
        Cell(num_latents, sparsity, 200, world="coherent", lam_fraction=fraction)
        for num_latents, sparsity in ((3_072, 32), (6_144, 40))
        for fraction in (0.2, 0.05, 0.02)
    ),
)
WIDE = Cell(16_384, 100, 100, world="coherent", input_dim=2_304, lam_fraction=0.1)


def draw(cell: Cell) -> Problem:
    """The problem of a cell, with a fraction of λ_max turned into a weight.

    Raises:
      ValueError: there are no such signals, or at the weight every code is zero.
    """
    if cell.world == "coherent":
        signals, dictionary = coherent(cell)
    else:
        # Half of the samples are for training.
        count = max(4, 2 * cell.num_samples)
        task = Setting(
            cell.num_latents, cell.sparsity, count, input_dim=cell.input_dim
        ).task()
        signals = np.asarray(task.train.signals)[: cell.num_samples]
        dictionary = np.ascontiguousarray(task.dictionary)
    # The weight at which the code of each signal vanishes.
    tops = [(signal @ dictionary).max() for signal in signals]
    lam = cell.lam
    if cell.lam_fraction is not None:
        lam = cell.lam_fraction * float(np.median(tops))
    if lam >= max(tops):
        raise ValueError(
            f"λ = {lam:.3g} is not below {max(tops):.3g}, the largest λ_max of the samples, and "
            f"leaves no code; lower it."
        )
    return Problem(signals, dictionary, lam)


def coherent(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Signals and a dictionary like those of a trained SAE: atoms in clusters of 16, with a cosine
    of about 0.5 within a cluster.

    An atom is `N(0, I)` plus its cluster's own `N(0, I)`, of unit norm; a signal has `sparsity`
    random atoms with exponential codes, 5 % of noise, and unit norm.
    """
    rng = np.random.default_rng(0)
    count = cell.num_samples
    size = cell.sparsity
    input_dim = cell.input_dim or max(1, cell.num_latents // 8)
    centres = rng.standard_normal(
        (-(-cell.num_latents // 16), input_dim), dtype=np.float32
    )
    atoms = np.repeat(centres, 16, axis=0)[: cell.num_latents]
    atoms = _unit(atoms + rng.standard_normal(atoms.shape, dtype=np.float32))
    supports = [rng.choice(len(atoms), size, replace=False) for _ in range(count)]
    clean = np.stack([rng.exponential(size=size) @ atoms[on] for on in supports])
    signals = _unit(_unit(clean) + 0.05 * _unit(rng.standard_normal(clean.shape)))
    return signals.astype(np.float32), np.ascontiguousarray(atoms.T)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


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


def ours(problem: Problem) -> Run:
    """`sparse_code` to its own tolerance, which is `TARGET`."""
    signals = devices.place(problem.signals, devices.mesh())
    arrays = signals, jnp.asarray(problem.dictionary), problem.lam
    return lambda: jax.block_until_ready(sparse_code(*arrays))


def spams_lars(problem: Problem) -> Run:
    """The LARS of SPAMS in single precision, timed with its Gram matrix."""
    import spams

    columns = np.asfortranarray(problem.signals.T)
    atoms = np.asfortranarray(problem.dictionary)
    return lambda: spams.lasso(
        columns, D=atoms, lambda1=problem.lam, mode=2, pos=True, numThreads=-1
    )


def celer(problem: Problem) -> Run:
    """Celer, one signal at a time, in double precision: single does not reach 1e-6."""
    from celer import Lasso

    atoms = np.asfortranarray(problem.dictionary, np.float64)
    model = Lasso(
        alpha=problem.lam / len(atoms),
        tol=TARGET,
        max_iter=1_000,
        positive=True,
        fit_intercept=False,
    )

    def run() -> np.ndarray:
        # It warns that it misses its accuracy, which the table shows.
        with warnings.catch_warnings(action="ignore"):
            signals = problem.signals.astype(np.float64)
            return np.stack(
                [np.ravel(model.fit(atoms, signal).coef_) for signal in signals]
            )

    return run


def codes_of(result: Any) -> np.ndarray:
    """The codes in a coder's result, as `(n, num_latents)`."""
    if hasattr(result, "toarray"):
        return result.toarray().T
    return np.asarray(getattr(result, "codes", result))


OURS = "working_set"
CODERS = {
    OURS: Coder(ours),
    "spams": Coder(spams_lars),
    "celer": Coder(celer, at_most=10),
}
