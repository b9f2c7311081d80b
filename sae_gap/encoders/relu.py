"""The ReLU encoder of the standard sparse autoencoder."""

import jax
import jax.numpy as jnp

from sae_gap.encoders import AmortisedEncoder, Recipe


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
        return jax.nn.relu(self.preactivations(model, signals))

    def with_penalty(self, model, signals):
        codes = self(model, signals)
        return codes, jnp.sum(codes, axis=1)
