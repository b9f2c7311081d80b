"""The gated encoder and its three-part loss against their equations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.gated import Gated, GatedParameters

PENALTY = 0.3


def by_hand(model, signals):
    """Codes and rectified gates: eqs. 6 and 7 of Rajamanoharan et al. (2024)."""
    encoder, centred = model.encoder, signals - model.bias
    gate = centred @ encoder.gate.weight + encoder.gate.bias
    magnitude = centred @ (encoder.gate.weight * jnp.exp(encoder.log_scale)) + encoder.bias
    return (gate > 0) * jnp.maximum(magnitude, 0), jnp.maximum(gate, 0)


def loss_by_hand(model, signals):
    """Eq. 8: the auxiliary error trains no decoder."""
    (codes, gate), held = by_hand(model, signals), jax.lax.stop_gradient(model)
    pairs = ((codes, model), (gate, held))
    errors = [(z @ of.dictionary.T + of.bias - signals) ** 2 for z, of in pairs]
    return jnp.mean(sum(errors), axis=1) + PENALTY * gate.sum(axis=1)


def test_codes_losses_and_gradients_are_those_of_the_equations():
    rng = np.random.default_rng(0)
    shapes = (4, 6), 6, 6, 6, (4, 6), 4, (8, 4)
    weight, shift, *scales, dictionary, bias, signals = (
        jnp.asarray(rng.normal(size=shape)) for shape in shapes
    )
    model = Model(dictionary, bias, GatedParameters(Affine(weight, shift), *scales))
    codes, gate = by_hand(model, signals)
    # Some latents have an open gate and no magnitude, and some the reverse.
    assert ((gate > 0) & (codes == 0)).any() and (codes > 0).any() and (gate == 0).any()
    np.testing.assert_allclose(Gated()(model, signals), codes, rtol=1e-4, atol=1e-5)
    found, penalty = Gated().with_penalty(model, signals)
    np.testing.assert_allclose(found, codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(penalty, gate.sum(axis=1), rtol=1e-5)

    def loss(model):
        losses, seen = Gated().loss(model, signals, PENALTY)
        assert seen is None and Gated().observe(model, seen) is model
        return losses.sum(), losses

    def expected(model):
        losses = loss_by_hand(model, signals)
        return losses.sum(), losses

    slopes = (jax.jit(jax.grad(each, has_aux=True))(model) for each in (loss, expected))
    for found, other in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-4)
    # The start is a rectified affine map.
    model = dataclasses.replace(model, encoder=Gated().parameters(weight, jax.random.key(0)))
    np.testing.assert_allclose(
        Gated()(model, signals), np.maximum((signals - bias) @ weight, 0), rtol=1e-5
    )
