"""The JumpReLU encoder: a learned threshold for each latent."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core import option
from sae_gap.encoders import Affine, AmortisedEncoder, Recipe, above


class JumpReLUParameters(eqx.Module):
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

    threshold: float | Array = option(default=1e-3, above=0)
    bandwidth: float | Array = option(default=1e-3, above=0)

    def parameters(self, weight, key):
        return JumpReLUParameters(
            Affine.create(weight), jnp.full(weight.shape[1], jnp.log(self.threshold), weight.dtype)
        )

    def __call__(self, model, signals):
        return self.with_penalty(model, signals)[0]

    def with_penalty(self, model, signals):
        parameters = model.encoder
        hidden = jax.nn.relu(parameters.affine(model.read(signals)))
        codes, active = _jump(hidden, jnp.exp(parameters.log_threshold), self.bandwidth)
        return codes, jnp.sum(active, axis=1)

    def affine(self, model):
        return model.encoder.affine

    def raised(self, model, change):
        return eqx.tree_at(
            lambda model: model.encoder.log_threshold, model, replace_fn=lambda own: own + change
        )


@jax.custom_vjp
def _jump(hidden, threshold, bandwidth):
    """Returns the gated values and the gate itself, whose sum is the l0 norm."""
    codes = above(hidden, threshold, hidden)
    return codes, (codes != 0).astype(hidden.dtype)


def _jump_forward(hidden, threshold, bandwidth):
    return _jump(hidden, threshold, bandwidth), (hidden, threshold, bandwidth)


def _jump_backward(residuals, cotangents):
    hidden, threshold, bandwidth = residuals
    codes_bar, gate_bar = cotangents
    kernel = (jnp.abs(hidden - threshold) < bandwidth / 2) / bandwidth
    threshold_bar = -jnp.sum(kernel * (threshold * codes_bar + gate_bar), axis=0)
    return jnp.where(hidden > threshold, codes_bar, 0), threshold_bar, jnp.zeros_like(bandwidth)


_jump.defvjp(_jump_forward, _jump_backward)
