"""Problems that the tests of solvers share."""

import numpy as np
from numpy.random import default_rng
from pytest import mark

# Samples, dimensions, latents: one shape for most tests, since each shape is compiled anew.
SHAPE = (24, 16, 40)
SIGNS = mark.parametrize("nonneg", [True, False])


def draw(seed=0, shape=SHAPE, sparsity=4):
    """Signals that are sparse on a unit-norm Gaussian dictionary."""
    n, m, latents = shape
    rng = default_rng(seed)
    dictionary = rng.normal(size=(m, latents))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.zeros((n, latents))
    for row in codes:
        row[rng.choice(latents, min(sparsity, latents), replace=False)] = rng.uniform(
            size=min(sparsity, latents)
        )
    return (codes @ dictionary.T).astype(np.float32), dictionary.astype(np.float32)
