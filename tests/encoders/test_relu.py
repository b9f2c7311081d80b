"""The ReLU encoder and its l1 penalty against loops, with the gradient of both."""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.relu import ReLU


def model_and_signals(seed=0, n=7, input_dim=4, num_latents=6):
    rng = np.random.default_rng(seed)
    affine = Affine(
        jnp.asarray(rng.normal(size=(input_dim, num_latents))),
        jnp.asarray(rng.normal(size=num_latents)),
    )
    model = Model(
        jnp.asarray(rng.normal(size=(input_dim, num_latents))),
        jnp.asarray(rng.normal(size=input_dim)),
        affine,
    )
    return model, jnp.asarray(rng.normal(size=(n, input_dim)))


def loop(model, signals):
    weight, shift, bias = (
        np.asarray(array) for array in (model.encoder.weight, model.encoder.bias, model.bias)
    )
    codes = np.zeros((len(signals), len(shift)))
    for i, signal in enumerate(np.asarray(signals)):
        for j in range(len(shift)):
            codes[i, j] = max(
                0.0,
                sum((signal[d] - bias[d]) * weight[d, j] for d in range(len(signal))) + shift[j],
            )
    return codes


def test_codes_and_penalty_against_a_loop():
    model, signals = model_and_signals()
    expected = loop(model, signals)
    assert 0.2 < (expected > 0).mean() < 0.8
    codes, penalty = ReLU().with_penalty(model, signals)
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    np.testing.assert_allclose(ReLU()(model, signals), expected, atol=1e-5)
    np.testing.assert_allclose(penalty, expected.sum(axis=1), rtol=1e-5)


def test_the_penalty_pulls_active_latents_down():
    model, signals = model_and_signals()
    gradient = jax.grad(lambda model: ReLU().with_penalty(model, signals)[1].sum())(model)
    active = (loop(model, signals) > 0).astype(float)
    np.testing.assert_allclose(gradient.encoder.bias, active.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        gradient.encoder.weight, np.asarray(signals - model.bias).T @ active, rtol=1e-4, atol=1e-5
    )
    assert not gradient.dictionary.any()
