"""Orthogonal and gradient pursuit by hand; tests/solvers/test_greedy.py has their least squares."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.pursuit import OMP, GradientPursuit


@pytest.mark.parametrize("kind", [OMP, GradientPursuit])
def test_by_hand(kind):
    """On the axes a pursuit takes the largest coordinates, and none that is negative for
    non-negative codes.
    """
    model, signals = (
        Model(2 * jnp.eye(3), jnp.ones(3)),
        jnp.array([[3.0, 1.0, 2.0], [0.0, -1.0, -3.0]]),
    )
    np.testing.assert_allclose(kind(2)(model, signals), [[1, 0, 0.5], [0, -1, -2]], atol=1e-6)
    found = kind(2, nonneg=True)(model, signals)
    np.testing.assert_allclose(found, [[1, 0, 0.5], [0, 0, 0]], atol=1e-6)
