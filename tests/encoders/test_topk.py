"""The k largest of each row against a sort, with ties, zeros and NaN, and the gradient through
them; and learned steps by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model
from sae_gap.encoders import LearnedSteps, keep_largest
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("k", [1, 9, 21])
def test_against_a_sort(k, dtype):
    """A stable sort gives ties to the lower index."""
    rng = np.random.default_rng(k)
    few = rng.random((40, 20)) * (rng.random((40, 20)) < 0.4)
    values = np.concatenate([few, rng.choice(LEVELS, (200, 20))])
    with jax.enable_x64(dtype is np.float64), np.errstate(all="ignore"):
        values = values.astype(dtype)
        ranks = np.argsort(np.argsort(-values, kind="stable"))
        found = thin(jnp.asarray(values), k)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.where(ranks < k, values, 0))


@pytest.mark.parametrize("lost", [jnp.nan, -jnp.nan])
def test_a_nan_of_any_sign_shows(lost):
    found = thin(jnp.array([[1.0, lost, 2.0, 3.0], [lost] * 4]), 1)
    np.testing.assert_array_equal(jnp.isnan(found), [[0, 1, 0, 0], [1, 0, 0, 0]])


def test_the_gradient_passes_through_what_is_kept_and_a_batch_axis_may_be_mapped():
    """A zero is never kept, even where nothing else is left to keep."""
    values = jnp.array([[3.0, 1, 2, 0], [0, 5, 0, 0], [1, 1, 1, 0.5]])
    slope = jax.vmap(jax.grad(lambda row: keep_largest(row[None], 2).sum()))(values)
    np.testing.assert_array_equal(slope, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]])


@pytest.mark.parametrize(("steps", "hidden"), [(0, 0), (1, 0), (3, 0), (0, 5), (2, 4)])
def test_learned_steps_by_hand(steps, hidden):
    """Each step codes what the largest so far leave, and adds to these."""
    rng, encoder = np.random.default_rng(steps), LearnedSteps(2, steps, 3, hidden=hidden)
    start = encoder.parameters(jnp.ones((6, 9)), jax.random.key(0))
    parts = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), start)
    atoms, bias, y = rng.normal(size=(6, 9)), rng.normal(size=6), rng.normal(size=(20, 6))

    def kept(codes, count):
        positive = np.maximum(codes, 0)
        return np.where(np.argsort(np.argsort(-positive)) < count, positive, 0)

    first, target = parts.first, y - bias
    if hidden:
        within = np.maximum(target @ first.inner.weight + first.inner.bias, 0)
        codes = target @ first.direct.weight + first.direct.bias + within @ first.outer
    else:
        codes = target @ first.weight + first.bias
    for step in parts.steps:
        few = kept(codes, 6)
        codes = few + (target - few @ atoms.T) @ step.weight + step.bias
    with jax.enable_x64(True):
        model = Model(*map(jnp.asarray, (atoms, bias)), jax.tree.map(jnp.asarray, parts))
        np.testing.assert_allclose(encoder(model, jnp.asarray(y)), kept(codes, 2), atol=1e-12)
