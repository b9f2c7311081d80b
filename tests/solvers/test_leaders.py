import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import GROUPS
from sae_gap.solvers import leaders as module

leaders = jax.jit(module.leaders, static_argnums=(1, 2))


@pytest.mark.parametrize(
    ("rows", "num_blocks", "count", "x64"), [(7, 64, 16, False), (33, 64, 8, True)]
)
def test_leaders_are_the_largest_block_maxima_of_each_group(rows, num_blocks, count, x64):
    rng = np.random.default_rng(rows)
    scores = np.maximum(rng.normal(size=(5, rows * num_blocks)), 0)
    with jax.enable_x64(x64):
        index = np.asarray(
            leaders(jnp.asarray(scores, jnp.float64 if x64 else jnp.float32), num_blocks, count)
        )
    for row, chosen in zip(scores, index, strict=True):
        groups = row.reshape(rows, num_blocks // GROUPS, GROUPS).max(0)
        want = np.sort(groups, axis=0)[::-1][: count // GROUPS].ravel()
        # Positions ride in the lowest bits, so that near ties may be told apart wrongly.
        np.testing.assert_allclose(np.sort(row[chosen]), np.sort(want), rtol=1e-4)
        assert row[chosen].max() == pytest.approx(row.max(), rel=1e-4)
        assert len(set(chosen[row[chosen] > 0].tolist())) == np.count_nonzero(row[chosen] > 0)
