"""The gated encoder and its three-part loss against NumPy, and where each part's gradient goes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.gated import Gated, GatedParameters

PENALTY = 0.3


def problem(seed=0, n=8, input_dim=4, num_latents=6):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    parameters = GatedParameters(
        Affine(draw(input_dim, num_latents), draw(num_latents)),
        draw(num_latents),
        draw(num_latents),
    )
    return Model(draw(input_dim, num_latents), draw(input_dim), parameters), draw(n, input_dim)


def unpack(model):
    encoder = model.encoder
    arrays = (
        model.dictionary,
        model.bias,
        encoder.gate.weight,
        encoder.gate.bias,
        encoder.log_scale,
        encoder.bias,
    )
    return (np.asarray(array, np.float64) for array in arrays)


def reference(model, signals):
    """Codes and rectified gates: eqs. 6 and 7 of Rajamanoharan et al. (2024)."""
    _, bias, weight, gate_bias, log_scale, magnitude_bias = unpack(model)
    gate = (signals - bias) @ weight + gate_bias
    magnitude = (signals - bias) @ (weight * np.exp(log_scale)) + magnitude_bias
    return (gate > 0) * np.maximum(magnitude, 0), np.maximum(gate, 0)


def test_codes_and_penalty_against_numpy():
    model, signals = problem()
    codes, gate = reference(model, np.asarray(signals))
    # Some latents have an open gate and no magnitude, and some the reverse.
    assert ((gate > 0) & (codes == 0)).any() and (codes > 0).any() and (gate == 0).any()
    found, penalty = eqx.filter_jit(Gated().with_penalty)(model, signals)
    np.testing.assert_allclose(found, codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Gated()(model, signals), codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(penalty, gate.sum(axis=1), rtol=1e-5)


def test_the_loss_has_three_parts():
    model, signals = problem()
    codes, gate = reference(model, np.asarray(signals))
    dictionary, bias, *_ = unpack(model)
    error, auxiliary = (
        ((z @ dictionary.T + bias - np.asarray(signals)) ** 2).mean(axis=1) for z in (codes, gate)
    )
    losses, seen = Gated().loss(model, signals, PENALTY)
    np.testing.assert_allclose(losses, error + PENALTY * gate.sum(axis=1) + auxiliary, rtol=1e-5)
    assert seen is None and Gated().observe(model, seen) is model


def test_each_part_trains_what_it_should():
    model, signals = problem()
    gradient = jax.jit(jax.grad(lambda model: Gated().loss(model, signals, PENALTY)[0].sum()))(
        model
    )
    codes, gate = reference(model, np.asarray(signals))
    dictionary, bias, weight, _, log_scale, _ = unpack(model)
    y = np.asarray(signals, np.float64)
    codes_bar, gate_bar = (2 * (z @ dictionary.T + bias - y) / 4 for z in (codes, gate))
    # The decoder learns from the codes alone, the gate's bias from the penalty and the auxiliary
    # error alone.
    np.testing.assert_allclose(gradient.dictionary, codes_bar.T @ codes, rtol=1e-4, atol=1e-4)
    pi_bar = (gate > 0) * (gate_bar @ dictionary + PENALTY)
    np.testing.assert_allclose(gradient.encoder.gate.bias, pi_bar.sum(axis=0), rtol=1e-4, atol=1e-4)
    magnitude_bar = (codes > 0) * (codes_bar @ dictionary)
    np.testing.assert_allclose(
        gradient.encoder.bias, magnitude_bar.sum(axis=0), rtol=1e-4, atol=1e-4
    )
    projected_bar = pi_bar + magnitude_bar * np.exp(log_scale)
    np.testing.assert_allclose(
        gradient.encoder.gate.weight, (y - bias).T @ projected_bar, rtol=1e-4, atol=1e-4
    )
    scale_bar = (magnitude_bar * ((y - bias) @ weight) * np.exp(log_scale)).sum(axis=0)
    np.testing.assert_allclose(gradient.encoder.log_scale, scale_bar, rtol=1e-4, atol=1e-4)
    bias_bar = codes_bar.sum(axis=0) - (projected_bar @ weight.T).sum(axis=0)
    np.testing.assert_allclose(gradient.bias, bias_bar, rtol=1e-4, atol=1e-4)


def test_the_start_is_a_rectified_affine_map():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)))
    model = Model(weight, jnp.zeros(4), Gated().parameters(weight, jax.random.key(0)))
    signals = problem()[1]
    np.testing.assert_allclose(Gated()(model, signals), np.maximum(signals @ weight, 0), rtol=1e-5)
