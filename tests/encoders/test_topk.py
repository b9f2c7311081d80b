"""The k largest of each row against a sort, with ties, zeros and NaN, and the gradient through
them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.encoders import keep_largest
from sae_gap.encoders.topk import _by_bits

# Compiled for each k; accelerators, which sort nothing, must keep the same.
WAYS = [jax.jit(way, static_argnums=1) for way in (keep_largest, _by_bits)]
# Few values, so that ties are the rule. Programs take subnormal floats for zero.
TINY, NEXT = np.finfo(np.float32).tiny, np.nextafter(np.float32(0.5), np.float32(1))
LEVELS = np.array([0.0, -0.0, TINY, 0.5, NEXT, 1.0, 3e38, np.inf], np.float32)


def thin(values, k):
    found, kept = (way(values, k) for way in WAYS)
    np.testing.assert_array_equal(jnp.where(kept & ~(values <= 0), values, 0), found)
    return found


def by_sorting(values, k):
    """A stable sort gives ties to the lower index."""
    kept = np.zeros_like(values)
    for row, out in zip(values, kept, strict=True):
        best = np.argsort(-row, kind="stable")[:k]
        out[best] = row[best]
    return kept


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("k", [1, 9, 20, 21])
def test_against_a_sort(k, dtype):
    rng = np.random.default_rng(k)
    few = rng.random((40, 20)) * (rng.random((40, 20)) < 0.4)
    values = np.concatenate([few, rng.choice(LEVELS, (200, 20))])
    with jax.enable_x64(dtype is np.float64), np.errstate(all="ignore"):
        values = values.astype(dtype)
        found = thin(jnp.asarray(values), k)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, by_sorting(values, k))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_nan_of_any_sign_shows(sign):
    lost = sign * jnp.nan
    spoilt = jnp.array([[1.0, lost, 2.0, 3.0], [lost] * 4])
    found = jnp.isnan(thin(spoilt, 1))
    np.testing.assert_array_equal(found, [[False, True, False, False], [True] + [False] * 3])


def test_the_gradient_passes_through_what_is_kept_and_a_batch_axis_may_be_mapped():
    values = jnp.array([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.5]])
    gradient = jax.vmap(jax.grad(lambda row: keep_largest(row[None], 2).sum()))(values)
    # A zero is never kept, even where nothing else is left to keep.
    np.testing.assert_array_equal(gradient, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]])
