"""Softplus-Adam against the same descent in NumPy, its rate and its stop included, and who sees
what.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sae_gap.learners import SoftplusAdam

KEY = jax.random.key(0)
begin = eqx.filter_jit(lambda learner, data: learner.init(data, num_latents=20, key=KEY))
take_step = eqx.filter_jit(lambda learner, *given: learner.step(*given))


@jax.jit
def loss_of(parts, targets):
    """The published loss, of which the other samples leave the dictionary alone."""
    dictionary, *frees = parts
    total, fixed = 0.0, dictionary
    for free, target in zip(frees, targets, strict=True):
        codes = jnp.logaddexp(free, 0)
        error = codes @ fixed.T - target
        total += jnp.mean(error**2) + 0.1 * jnp.mean(codes * jnp.linalg.norm(fixed, axis=0))
        fixed = jax.lax.stop_gradient(dictionary)
    return total


def descend(parts, data, updates):
    """The descent, one update at a time: the parts, all rates and the least loss."""
    rule, slopes = optax.scale_by_adam(), jax.jit(jax.value_and_grad(loss_of))
    state, rates, best, worse = rule.init(parts), [1e-3], np.inf, 0
    for _ in range(updates):
        loss, gradient = slopes(parts, data)
        directions, state = rule.update(gradient, state)
        parts = [part - rates[-1] * step for part, step in zip(parts, directions, strict=True)]
        worse = 0 if loss < best else worse + 1
        rate = rates[-1] * (1.1 if loss < best else 0.5 if worse == 2 else 1)
        best, worse = min(best, loss), worse % 2
        rates.append(min(max(rate, 1e-6), 1))
    return parts, rates, float(best)


@pytest.mark.parametrize("split", ["train", "id"])
def test_updates_against_numpy(task, split):
    """Dimensions of zeros count for nothing."""
    with jax.enable_x64(True):
        task = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), task)
        learner = SoftplusAdam(split=split, block=100)
        bare = learner.select(task)
        data = tuple(jnp.pad(signals, ((0, 0), (0, 4))) for signals in bare)
        state = begin(learner, data)
        dictionary, codes = state.free
        assert len(codes) == (2 if split == "id" else 1)
        parts, rates, best = descend([dictionary[:12], *codes], bare, 200)
        for _ in range(2):
            state = take_step(learner, data, state)
        model = learner.model(state)
    # The rate both rose and fell on the way.
    assert max(rates) > 2e-3 and (np.diff(rates) < 0).any()
    np.testing.assert_allclose([state.rate, state.best, state.updates], [rates[-1], best, 200])
    for ours, theirs in zip([state.free[0][:12], *state.free[1]], parts, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(model.dictionary, state.free[0])
    if split == "id":
        codes = np.logaddexp(np.concatenate(parts[1:]), 0)
        np.testing.assert_allclose(model.encoder.codes, codes, atol=1e-6)
        np.testing.assert_array_equal(model.encoder.signals, np.concatenate(data))


@pytest.mark.parametrize(
    ("least_updates", "patience", "expected"), [(30, 10, 31), (5, 10, 11), (0, 2_000, 100)]
)
def test_when_it_stops(task, least_updates, patience, expected):
    """Nothing counts as an improvement by a thousand but the first loss, against none."""
    learner = SoftplusAdam(
        num_steps=5, block=20, improvement=1e3, least_updates=least_updates, patience=patience
    )
    data = learner.select(task)
    state = begin(learner, data)
    for _ in range(5):
        state = take_step(learner, data, state)
    assert int(state.updates) == expected
