"""The k largest of each row against a sort, with ties, zeros and edges, and the gradient through
them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sae_gap.encoders.topk import _by_bits, keep_largest

# Compiled for each k; every example of a k has one shape.
WAYS = [jax.jit(way, static_argnums=1) for way in (keep_largest, _by_bits)]


def thin(values, k):
    """The k largest; accelerators, which sort nothing, must keep the same."""
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


def same_bits(found, expected):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize(
    ("k", "dtype"),
    [(1, np.float32), (9, np.float32), (9, np.float64), (20, np.float32), (21, np.float32)],
)
def test_against_a_sort(k, dtype):
    rng = np.random.default_rng(k)
    values = np.concatenate([rng.random((40, 20)), rng.lognormal(sigma=20, size=(40, 20))]).astype(
        dtype
    )
    values[::3] *= rng.random((27, 20)) < 0.2
    with jax.enable_x64(dtype is np.float64):
        same_bits(thin(jnp.asarray(values), k), by_sorting(values, k))


# Few values, so that ties are the rule; the smallest and largest floats and infinity are extremes.
# Subnormal floats are left out, since a compiled program takes them for zero.
LEVELS = [
    0.0,
    np.finfo(np.float32).tiny,
    0.5,
    np.nextafter(np.float32(0.5), np.float32(1)),
    1.0,
    3e38,
    np.inf,
]


@pytest.mark.parametrize("k", [1, 4])
@given(
    values=arrays.arrays(
        np.float32, (5, 8), elements=st.sampled_from([float(level) for level in LEVELS])
    )
)
@settings(max_examples=15, deadline=None)
def test_ties_zeros_and_extremes(k, values):
    same_bits(thin(jnp.asarray(values), k), by_sorting(values, k))


def test_negative_zeros_are_zeros_and_a_nan_shows():
    values = np.array(
        [[-0.0, -0.0, -0.0, 1, 2, 3], [-0.0, 0, -0.0, 0, -0.0, 0], [1, 2, -0.0, 4, -0.0, 6]],
        np.float32,
    )
    for k in (1, 3, 5):
        np.testing.assert_array_equal(thin(jnp.asarray(values), k), by_sorting(values, k))
    spoilt = jnp.array([[1.0, jnp.nan, 2.0, 3.0], [jnp.nan] * 4])
    np.testing.assert_array_equal(
        jnp.isnan(thin(spoilt, 1)), [[False, True, False, False], [True, False, False, False]]
    )


def test_the_gradient_passes_through_what_is_kept():
    values = jnp.array([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.5]])
    weights = jnp.arange(1.0, 13).reshape(3, 4)
    gradient = jax.jit(jax.grad(lambda values: jnp.sum(weights * keep_largest(values, 2))))(values)
    # A zero is never kept, even where nothing else is left to keep.
    kept = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(gradient, weights * kept)


def test_a_batch_axis_may_be_mapped():
    values = np.random.default_rng(0).integers(0, 4, (3, 6, 8)).astype(np.float32)
    found = jax.vmap(lambda values: keep_largest(values, 3))(jnp.asarray(values))
    np.testing.assert_array_equal(found, [by_sorting(part, 3) for part in values])


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_half_precision_and_a_nan_of_any_sign(kind):
    values = jnp.asarray([[1, 2, 3, 0], [4, 4, 4, 4]], kind)
    np.testing.assert_array_equal(thin(values, 2), [[0, 2, 3, 0], [4, 4, 0, 0]])
    signed = jnp.copysign(jnp.asarray(np.nan, kind), -1)
    spoilt = jnp.asarray([[1, 2, 3, 0]], kind).at[0, 3].set(signed)
    for way in WAYS:
        assert way(spoilt, 2)[0, 3] != 0
    assert jnp.isnan(keep_largest(spoilt, 2)).tolist() == [[False, False, False, True]]
