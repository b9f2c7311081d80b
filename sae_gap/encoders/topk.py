"""The TopK encoder, and the k largest entries of each row."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core.checks import check_size
from sae_gap.encoders.encoder import AmortisedEncoder


class TopK(AmortisedEncoder):
    """Keeps the k largest pre-activations of a sample, then `relu`; no penalty.

    References:
      Gao et al. (2024), "Scaling and evaluating sparse autoencoders", arXiv:2406.04093.
    """

    label = "TopK"
    colour = "#D55E00"
    rank = 2

    k: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        check_size("k", self.k)

    def __call__(self, model, signals):
        return keep_largest(jax.nn.relu(self.preactivations(model, signals)), self.k)

    def exported(self, model):
        options = {"k": min(self.k, model.decoder.shape[1]), "rescale_acts_by_decoder_norm": False}
        return "topk", options, model.encoder.exported()


@functools.partial(jax.jit, static_argnums=1)
def keep_largest(values: Float[Array, "n num_latents"], k: int) -> Float[Array, "n num_latents"]:
    """Zeroes all but the k largest entries of each row of non-negative values, ties going to the
    lower index.

    Args:
      values: non-negative, samples as rows.
      k: how many to keep; a row with fewer positive entries keeps those.

    Returns:
      The values, thinned. The gradient passes through the entries kept.
    """
    if k >= values.shape[1]:
        return values
    _, largest = jax.lax.top_k(jax.lax.stop_gradient(values), k)
    kept = jnp.zeros(values.shape, bool).at[jnp.arange(len(values))[:, None], largest].set(True)
    # A NaN is the largest of all, and must show.
    return jnp.where(kept & ~(values <= 0), values, 0)
