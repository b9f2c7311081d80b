import jax
import numpy as np
import pytest

from sae_gap.solvers import GROUPS
from sae_gap.solvers import leaders as module

leaders = jax.jit(module.leaders, static_argnums=(1, 2))


@pytest.mark.parametrize(("rows", "count", "precision"), [(7, 16, "float32"), (33, 8, "float64")])
def test_leaders_are_the_largest_block_maxima_of_each_group(rows, count, precision):
    scores = np.maximum(np.random.default_rng(rows).normal(size=(5, rows * 64)), 0)
    with jax.enable_x64(precision == "float64"):
        index = np.asarray(leaders(scores.astype(precision), 64, count))
    for row, chosen in zip(scores, index, strict=True):
        groups = row.reshape(rows, 64 // GROUPS, GROUPS).max(0)
        want = np.sort(groups, axis=0)[::-1][: count // GROUPS].ravel()
        # Positions ride in the lowest bits, so that near ties may be told apart wrongly.
        np.testing.assert_allclose(np.sort(row[chosen]), np.sort(want), rtol=1e-4)
