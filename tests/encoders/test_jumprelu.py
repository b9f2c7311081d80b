"""JumpReLU against loops, and its straight-through gradients against the published estimator entry
by entry.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.encoders.jumprelu import JumpReLU, JumpReLUParameters

from .test_batchtopk import problem

BANDWIDTH = 0.4


def jumping():
    """Thresholds amid the values, so that many values lie in the window of their threshold, on
    either side.
    """
    model, signals, hidden = problem(n=30, num_latents=6)
    threshold = np.random.default_rng(1).uniform(0.15, 1.0, 6)
    parameters = JumpReLUParameters(model.encoder.affine, jnp.asarray(np.log(threshold)))
    threshold = np.exp(np.asarray(parameters.log_threshold, np.float64))
    return dataclasses.replace(model, encoder=parameters), signals, hidden, threshold


def test_codes_are_what_exceeds_the_threshold_and_the_penalty_counts_them():
    model, signals, hidden, threshold = jumping()
    active = hidden > threshold
    assert (active & (hidden < threshold + BANDWIDTH / 2)).any() and ((hidden > 0) & ~active).any()
    codes, penalty = JumpReLU().with_penalty(model, signals)
    np.testing.assert_allclose(codes, np.where(active, hidden, 0), atol=1e-5)
    np.testing.assert_allclose(JumpReLU()(model, signals), codes)
    np.testing.assert_array_equal(penalty, active.sum(axis=1))


def pseudo_gradients(hidden, threshold, codes_bar, penalty_bar):
    """Rajamanoharan et al. (2024), eqs. 11 and 12: the derivative of JumpReLU in θ is -θ/ε K((z -
    θ)/ε), of the step -1/ε K.
    """
    hidden_bar, threshold_bar = np.zeros_like(hidden), np.zeros_like(threshold)
    for i in range(len(hidden)):
        for j, theta in enumerate(threshold):
            inside = abs(hidden[i, j] - theta) / BANDWIDTH < 0.5
            if inside:
                threshold_bar[j] += (
                    -theta / BANDWIDTH * codes_bar[i, j] - 1 / BANDWIDTH * penalty_bar[i]
                )
            if hidden[i, j] > theta:
                hidden_bar[i, j] = codes_bar[i, j]
    return hidden_bar, threshold_bar


def test_gradients_are_the_straight_through_estimator():
    model, signals, hidden, threshold = jumping()
    rng = np.random.default_rng(1)
    codes_bar, penalty_bar = rng.normal(size=hidden.shape), rng.normal(size=len(hidden))

    def loss(model):
        codes, penalty = JumpReLU(bandwidth=BANDWIDTH).with_penalty(model, signals)
        return jnp.sum(codes * codes_bar) + jnp.sum(penalty * penalty_bar)

    gradient = jax.jit(jax.grad(loss))(model)
    hidden_bar, threshold_bar = pseudo_gradients(hidden, threshold, codes_bar, penalty_bar)
    affine = model.encoder.affine
    # The threshold is learned as its logarithm, which brings a factor of θ.
    np.testing.assert_allclose(
        gradient.encoder.log_threshold, threshold_bar * threshold, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        gradient.encoder.affine.bias, hidden_bar.sum(axis=0), rtol=1e-4, atol=1e-4
    )
    centred = np.asarray(signals - model.bias)
    np.testing.assert_allclose(
        gradient.encoder.affine.weight, centred.T @ hidden_bar, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        gradient.bias, -(hidden_bar @ np.asarray(affine.weight).T).sum(axis=0), rtol=1e-4, atol=1e-4
    )
    assert not gradient.dictionary.any()


def test_the_initial_threshold_and_window_are_the_published_ones():
    weight = jnp.arange(6.0).reshape(2, 3)
    parameters = JumpReLU().parameters(weight, jax.random.key(0))
    np.testing.assert_allclose(np.exp(parameters.log_threshold), 1e-3, rtol=1e-5)
    assert parameters.log_threshold.shape == (3,) and parameters.log_threshold.dtype == weight.dtype
    np.testing.assert_array_equal(parameters.affine.weight, weight)
    assert (JumpReLU().threshold, JumpReLU().bandwidth) == (1e-3, 1e-3)
