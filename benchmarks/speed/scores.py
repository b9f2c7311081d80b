"""Objective and gap of codes, computed in float64 by NumPy from signals, dictionary and codes
alone, whatever solver found them.
"""

import numpy as np


def score(
    signals: np.ndarray, dictionary: np.ndarray, codes: np.ndarray, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Objective and duality gap of non-negative codes.

    The dual point is the residual r = y − D z, times the largest s ≤ 1 with s Dᵀr ≤ λ.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      codes: `(n, num_latents)`.
      lam: weight of the l1 norm, above 0.

    Returns:
      `(n,)` objectives ½‖y − D z‖² + λ‖z‖₁ and `(n,)` gaps: no code has an objective below their
      difference.
    """
    atoms, codes = (np.asarray(array, np.float64) for array in (dictionary, codes))
    rest = signals - codes @ atoms.T
    pull, penalty = rest @ atoms, lam * np.abs(codes)
    scale = (lam / np.maximum(pull, lam)).min(axis=1)[:, None]
    values = 0.5 * (rest**2).sum(axis=1) + penalty.sum(axis=1)
    shrunk = 0.5 * (((1 - scale) * rest) ** 2).sum(axis=1)
    return values, shrunk + (penalty - scale * codes * pull).sum(axis=1)
