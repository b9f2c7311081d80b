"""What codes are worth, told in float64 by NumPy from signals, dictionary and codes alone, whatever
solver found them.
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
    """Objective and duality gap of every code, a few samples at a time.

    The dual point is the residual r = y − D z, shrunk to where it is feasible.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      codes: `(n, num_latents)`.
      lam: weight of the l1 norm, a scalar or an array that broadcasts to `(n, num_latents)`.
      nonneg: whether codes are constrained to be non-negative.

    Returns:
      `(n,)` objectives ½‖y − D z‖² + λ‖z‖₁ and `(n,)` gaps: no code has an objective below their
      difference.
    """
    values, gaps = [], []
    step = max(1, 2**24 // dictionary.shape[1])
    weights = np.asarray(lam, np.float64)
    for start in range(0, len(signals), step):
        part = codes[start : start + step].astype(np.float64)
        used = np.flatnonzero(part.any(axis=0))
        rest = signals[start : start + step] - part[:, used] @ dictionary[:, used].T.astype(
            np.float64
        )
        blocks = np.array_split(dictionary, 1 + dictionary.shape[1] // 2**16, axis=1)
        pull = np.concatenate([rest @ block.astype(np.float64) for block in blocks], axis=1)
        weight = (
            weights[start : start + step] if weights.ndim == 2 and len(weights) > 1 else weights
        )
        scale = feasible(pull, weight, nonneg=nonneg)[:, None]
        penalty = weight * np.abs(part)
        values.append(0.5 * (rest**2).sum(axis=1) + penalty.sum(axis=1))
        gaps.append(
            0.5 * (((1 - scale) * rest) ** 2).sum(axis=1)
            + (penalty - scale * part * pull).sum(axis=1)
        )
    return np.concatenate(values), np.concatenate(gaps)


def feasible(pull: np.ndarray, lam: np.ndarray | float, *, nonneg: bool) -> np.ndarray:
    """The largest s ≤ 1 with s Dᵀt ≤ λ, or s |Dᵀt| ≤ λ for signed codes, of every dual candidate t
    with `pull` Dᵀt.
    """
    bound = pull if nonneg else np.abs(pull)
    broken = bound > lam
    return np.where(broken, np.broadcast_to(lam, bound.shape) / np.where(broken, bound, 1), 1).min(
        axis=1
    )
