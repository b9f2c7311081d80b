"""The gated encoder: a gate decides which latents are on, and another map how much, so that
sparsity does not shrink the codes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.encoders import Affine, AmortisedEncoder, Recipe, above


class GatedParameters(eqx.Module):
    """The gate's affine map. The magnitudes' map shares its weights, up to a scale for each latent,
    and has its own bias.
    """

    gate: Affine
    log_scale: Float[Array, " num_latents"]
    bias: Float[Array, " num_latents"]


class Gated(AmortisedEncoder):
    """`z = 1[π > 0] · relu((y - b) W exp(r) + c)` with the gate `π = (y - b) W + a`; the penalty is
    the l1 norm of `relu(π)`.

    No gradient passes through the step, so the gate learns from the penalty and from a second
    squared error, with `relu(π)` as codes and the decoder and its bias held fixed.

    References:
      Rajamanoharan et al. (2024), "Improving dictionary learning with gated sparse autoencoders",
      arXiv:2404.16014.
    """

    label = "gated"
    colour = "#661100"
    rank = 8
    recipe = Recipe(penalty=0.5)

    def parameters(self, weight, key):
        zeros = jnp.zeros(weight.shape[1], weight.dtype)
        return GatedParameters(Affine.create(weight), zeros, zeros)

    def __call__(self, model, signals):
        return self._infer(model, signals)[0]

    def with_penalty(self, model, signals):
        codes, gate = self._infer(model, signals)
        return codes, jnp.sum(gate, axis=1)

    def loss(self, model, signals, penalty):
        codes, gate = self._infer(model, signals)
        error = self.errors(model, signals, codes) + penalty * jnp.sum(gate, axis=1)
        return error + self.errors(jax.lax.stop_gradient(model), signals, gate), None

    def _infer(self, model, signals):
        """Returns the codes, and the rectified pre-activations of the gate."""
        parameters = model.encoder
        projected = model.read(signals) @ parameters.gate.weight
        gate = projected + parameters.gate.bias
        magnitude = jax.nn.relu(projected * jnp.exp(parameters.log_scale) + parameters.bias)
        return above(gate, 0, magnitude), jax.nn.relu(gate)
