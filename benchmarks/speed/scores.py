"""Objective and gap of codes, computed in float64 by NumPy from signals, dictionary and codes
alone, whatever solver found them.
"""

import numpy as np


def score(
    signals: np.ndarray,
    dictionary: np.ndarray,
    codes: np.ndarray,
    lam: np.ndarray | float,
    *,
    nonneg: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Objective and duality gap of every code.

    The dual point is the residual r = y − D z, scaled down until it is feasible.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      codes: `(n, num_latents)`.
      lam: weight of the l1 norm, a scalar or an array that broadcasts to `(n, num_latents)`.
      nonneg: whether codes are constrained to be non-negative.

    Returns:
      `(n,)` objectives ½‖y − D z‖² + λ‖z‖₁ and `(n,)` gaps: no code has an objective below their
      difference.

    Raises:
      ValueError: a λ is not positive.
    """
    atoms, codes = (np.asarray(array, np.float64) for array in (dictionary, codes))
    rest = signals - codes @ atoms.T
    pull = rest @ atoms
    penalty = lam * np.abs(codes)
    scale = feasible(pull, lam, nonneg=nonneg)[:, None]
    values = 0.5 * (rest**2).sum(axis=1) + penalty.sum(axis=1)
    shrunk = 0.5 * (((1 - scale) * rest) ** 2).sum(axis=1)
    return values, shrunk + (penalty - scale * codes * pull).sum(axis=1)


def feasible(pull: np.ndarray, lam: np.ndarray | float, *, nonneg: bool) -> np.ndarray:
    """The largest s ≤ 1 with s Dᵀt ≤ λ (for signed codes s |Dᵀt| ≤ λ), for every dual candidate t
    with `pull` = Dᵀt.

    Raises:
      ValueError: a λ is not positive.
    """
    if not np.all(np.asarray(lam) > 0):
        raise ValueError(
            "lam must be above 0, since at 0 no dual point gives a gap; give more."
        )
    bound = pull if nonneg else np.abs(pull)
    return (lam / np.maximum(bound, lam)).min(axis=1)
