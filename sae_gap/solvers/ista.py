"""Proximal gradient without momentum: the baseline that FISTA accelerates."""

from jaxtyping import Array, Float, Int

from sae_gap.core.types import Solution
from sae_gap.solvers import fista


def fixed(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    lam: Float[Array, "..."] | float,
    init: Float[Array, "n num_latents"] | None = None,
    *,
    iterations: Int[Array, ""] | int,
    nonneg: bool = True,
) -> Float[Array, "n num_latents"]:
    """Exactly `iterations` steps `z ← prox(z + Dᵀ (y - D z) / L)` with `L = ‖D‖₂²`; arguments as in `fista.fixed`.

    References:
      Daubechies, Defrise & De Mol (2004), "An iterative thresholding algorithm for linear inverse problems", CPAM 57(11).
    """
    return fista.fixed(signals, dictionary, lam, init, iterations=iterations, nonneg=nonneg, momentum=False)


def solve(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    lam: Float[Array, "..."] | float,
    init: Float[Array, "n num_latents"] | None = None,
    *,
    tol: Float[Array, ""] | float = 1e-6,
    max_iterations: Int[Array, ""] | int = 20_000,
    nonneg: bool = True,
) -> Solution:
    """ISTA until the duality gap is certified, sample by sample; arguments and result as in `fista.solve`."""
    return fista.solve(signals, dictionary, lam, init, tol=tol, max_iterations=max_iterations, nonneg=nonneg, momentum=False)


__all__ = ["fixed", "solve"]
