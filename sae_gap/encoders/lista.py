"""LISTA: a few unrolled steps of ISTA with learned matrices and thresholds, layer by layer."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.nn import relu
from jaxtyping import Array, Float

from sae_gap.core import lipschitz, option
from sae_gap.encoders import AmortisedEncoder


class LISTAParameters(eqx.Module):
    """The parameters of all layers; `recurrence` is None in the factored form, whose layers use the
    dictionary instead.
    """

    weight: Float[Array, "depth input_dim num_latents"]
    threshold: Float[Array, "depth num_latents"]
    recurrence: Float[Array, "depth-1 num_latents num_latents"] | None = None


class LISTA(AmortisedEncoder):
    """`z ← relu(z + (y - b - D z) W_t - θ_t)` for each layer t, from `z = 0`; in full,
    `z ← relu((y - b) W_t + z S_t - θ_t)`.

    It starts as ISTA on the initial weights: `W = D / L`, `θ = λ / L` and `S = I - DᵀD / L`, with
    `L = ‖D‖₂²`. The full form, the original one, costs num_latents² a layer in parameters and in
    time; the factored one costs 2 · input_dim · num_latents.

    Args:
      depth: number of layers, each with its own parameters.
      lam: λ of the initial thresholds.
      factored: whether to compute the residual with the model's dictionary.
      threshold: the initial thresholds; they replace `λ / L`.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML. The factored
      form, which only learns W_t, is the coupling of Chen, Liu, Wang & Yin (2018),
      arXiv:1808.10038.
    """

    label = "LISTA"
    colour = "#CC79A7"
    rank = 9
    recipe = None
    reads_inputs = False

    depth: int = option(default=16)
    lam: float | Array = option(default=0.1, least=0)
    factored: bool = option(default=True)
    threshold: float | Array | None = option(default=None, least=0)

    @property
    def coordinates(self):
        return {"inference": self.name, "depth": self.depth}

    def parameters(self, weight, key):
        rate = (1 / lipschitz(weight)).astype(weight.dtype)
        kind = weight.dtype

        def layers(array, count=self.depth):
            return jnp.broadcast_to(array, (count, *array.shape))

        initial = rate * self.lam if self.threshold is None else self.threshold
        step = layers(rate * weight)
        threshold = layers(jnp.full(weight.shape[1], initial, kind))
        if self.factored:
            return LISTAParameters(step, threshold)
        recurrence = jnp.eye(weight.shape[1], dtype=kind) - rate * weight.T @ weight
        return LISTAParameters(step, threshold, layers(recurrence, self.depth - 1))

    def flops(self, input_dim, num_latents):
        layer = 4 * input_dim if self.factored else 2 * (input_dim + num_latents)
        return num_latents * (2 * input_dim + (self.depth - 1) * layer)

    def __call__(self, model, signals):
        parameters: LISTAParameters = model.encoder
        target = signals - model.bias

        def layer(codes, rest):
            weight, threshold, recurrence = rest
            if self.factored:
                moved = codes + (target - codes @ model.decoder.T) @ weight
            else:
                moved = target @ weight + codes @ recurrence
            return relu(moved - threshold), None

        # The first layer starts from zero codes, so it needs no product with them.
        codes = relu(target @ parameters.weight[0] - parameters.threshold[0])
        rest = parameters.weight[1:], parameters.threshold[1:], parameters.recurrence
        return lax.scan(layer, codes, rest)[0]
