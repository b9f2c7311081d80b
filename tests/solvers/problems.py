"""Problems, scores and bounds that the solver tests share."""

import numpy as np

SHAPE = (
    24,
    16,
    40,
)  # samples, dimensions, latents: one shape for most tests, since each shape is compiled anew


def draw(seed=0, shape=SHAPE, sparsity=4):
    """Signals that are sparse on a unit-norm Gaussian dictionary."""
    n, m, latents = shape
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(m, latents))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.zeros((n, latents))
    for row in codes:
        row[rng.choice(latents, min(sparsity, latents), replace=False)] = rng.uniform(
            size=min(sparsity, latents)
        )
    return (codes @ dictionary.T).astype(np.float32), dictionary.astype(np.float32)


def score(signals, dictionary, codes, lam, nonneg=True):
    """Objective and duality gap in float64, as numpy tells them."""
    signals, dictionary, codes, lam = (
        np.asarray(a, np.float64) for a in (signals, dictionary, codes, lam)
    )
    rest = signals - codes @ dictionary.T
    pull = rest @ dictionary
    bound = pull if nonneg else np.abs(pull)
    lam = np.broadcast_to(lam, pull.shape)
    broken = bound > lam
    scale = np.min(np.where(broken, lam / np.where(broken, bound, 1), 1), axis=1)[:, None]
    value = 0.5 * (rest**2).sum(1) + (lam * np.abs(codes)).sum(1)
    gap = 0.5 * (((1 - scale) * rest) ** 2).sum(1) + (
        lam * np.abs(codes) - scale * codes * pull
    ).sum(1)
    return value, gap
