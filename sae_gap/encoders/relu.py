"""The encoder of the standard sparse autoencoder, and two that do not shrink codes: by a threshold
for each latent, or by a gate.
"""

from dataclasses import replace

import jax.numpy as jnp
from equinox import Module, tree_at
from jax import lax
from jax.nn import relu
from jaxtyping import Array, Float

from sae_gap.core import option
from sae_gap.encoders import Affine, AmortisedEncoder, Recipe, above


class ReLU(AmortisedEncoder):
    """`z = relu((y - b) W + c)`; the penalty is its l1 norm.

    References:
      Bricken et al. (2023), "Towards Monosemanticity".
    """

    label = "ReLU"
    colour = "#0072B2"
    rank = 1
    recipe = Recipe(rate=2e-3, penalty=0.3)

    def __call__(self, model, signals):
        return self.rectified(model, signals)

    def with_penalty(self, model, signals):
        codes = self(model, signals)
        return codes, jnp.sum(codes, axis=1)


class JumpReLUParameters(Module):
    """The affine map and the logarithm of each latent's threshold θ."""

    affine: Affine
    log_threshold: Float[Array, " num_latents"]


class JumpReLU(AmortisedEncoder):
    """`z = h · 1[h > θ]` with `h = relu((y - b) W + c)`; the penalty is its l0 norm.

    The thresholds learn through a straight-through estimator: a rectangle kernel of width
    `bandwidth` smooths the step.

    References:
      Rajamanoharan et al. (2024), "Jumping Ahead", arXiv:2407.14435.
    """

    label = "JumpReLU"
    colour = "#009E73"
    rank = 3
    recipe = Recipe(penalty=0.03, options={"threshold": 0.1, "bandwidth": 0.1})
    penalty_power = 2

    threshold: float | Array = option(default=1e-3, above=0)
    bandwidth: float | Array = option(default=1e-3, above=0)

    def parameters(self, weight, key):
        return JumpReLUParameters(
            Affine.create(weight),
            jnp.full(weight.shape[1], jnp.log(self.threshold), weight.dtype),
        )

    def scaled(self, factor):
        return replace(
            self, threshold=self.threshold * factor, bandwidth=self.bandwidth * factor
        )

    def __call__(self, model, signals):
        return self.with_penalty(model, signals)[0]

    def with_penalty(self, model, signals):
        hidden = self.rectified(model, signals)
        threshold = jnp.exp(model.encoder.log_threshold)
        fixed, width = lax.stop_gradient((threshold, self.bandwidth))
        codes = above(hidden, fixed, hidden)
        near = lax.stop_gradient(jnp.abs(hidden - fixed) < width / 2) / width
        # Zero, with the gradient of the smoothed step.
        change = near * (threshold - fixed)
        active = (codes != 0).astype(hidden.dtype) - change
        return codes - fixed * change, jnp.sum(active, axis=1)

    def raised(self, model, change):
        return tree_at(
            lambda model: model.encoder.log_threshold,
            model,
            replace_fn=lambda own: own + change,
        )


class GatedParameters(Module):
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
        return error + self.errors(lax.stop_gradient(model), signals, gate), None

    def _infer(self, model, signals):
        """Returns the codes, and the rectified pre-activations of the gate."""
        parameters = model.encoder
        projected = model.read(signals) @ parameters.gate.weight
        gate = projected + parameters.gate.bias
        magnitude = relu(projected * jnp.exp(parameters.log_scale) + parameters.bias)
        return above(gate, 0, magnitude), relu(gate)
