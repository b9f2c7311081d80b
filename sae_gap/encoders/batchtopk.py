"""The BatchTopK encoder: k latents a sample on average, by one threshold from training."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sae_gap.core import check_type, option
from sae_gap.encoders import Affine, AmortisedEncoder, above, keep_largest


class BatchTopKParameters(eqx.Module):
    """The affine map and θ, one threshold for all latents."""

    affine: Affine
    threshold: Float[Array, ""]


class BatchTopK(AmortisedEncoder):
    """`z = h · 1[h > θ]` with `h = relu((y - b) W + c)`; training keeps the k · n largest `h` of a
    batch of n, without a penalty. At step t of T, counted from 0, it keeps
    `(f + (1 - f) t / (T - 1)) k · n`, with the initial factor f.

    θ is a running mean of the smallest positive value that a batch keeps; no gradient trains it.
    With θ, a sample's codes do not depend on the rest of its batch.

    Args:
      k: latents a sample, on average over a batch.
      rate: weight of the newest batch in θ; the first batch sets θ.
      initial_factor: f, the multiple of k at the start of training. It falls linearly to 1 at the
        last step.

    References:
      Bussmann, Leask & Nanda (2024), "BatchTopK sparse autoencoders", arXiv:2412.06410.
    """

    label = "BatchTopK"
    colour = "#999933"
    rank = 5

    k: int = option(default=10)
    rate: float | Array = option(default=0.01, above=0, most=1)
    initial_factor: float = option(default=1.0, static=True, least=1)

    def parameters(self, weight, key):
        return BatchTopKParameters(Affine.create(weight), jnp.zeros((), weight.dtype))

    def __call__(self, model, signals):
        mend = f"give a model that {self.name} was trained with, or encode by TopK"
        check_type("the model's encoder", model.encoder, BatchTopKParameters, mend)
        hidden = self._hidden(model, signals)
        return above(hidden, model.encoder.threshold, hidden)

    def loss_after(self, done, model, signals, penalty):
        return self.loss(model, signals, penalty, done)

    def loss(self, model, signals, penalty, done=1.0):
        # The padding of a smaller last batch also competes: it holds samples of the same epoch, and
        # so a batch of the usual size keeps the usual share.
        hidden = self._hidden(model, signals)
        count: int | Int[Array, ""] = self.k * len(hidden)
        if self.initial_factor > 1:
            factor = self.initial_factor + (1 - self.initial_factor) * done
            count = jnp.round(factor * count).astype(int)
        codes = keep_largest(hidden.reshape(1, -1), count).reshape(hidden.shape)
        own = model.encoder.threshold
        smallest = jnp.min(jnp.where(codes > 0, codes, jnp.inf))
        moved = jnp.where(own > 0, own + self.rate * (smallest - own), smallest)
        return self.errors(model, signals, codes), jnp.where(jnp.isfinite(smallest), moved, own)

    def observe(self, model, seen):
        return eqx.tree_at(lambda model: model.encoder.threshold, model, seen)

    def affine(self, model):
        return model.encoder.affine

    def raised(self, model, change):
        return eqx.tree_at(
            lambda model: model.encoder.threshold,
            model,
            replace_fn=lambda own: own * jnp.exp(change),
        )

    def _hidden(self, model, signals):
        return jax.nn.relu(model.encoder.affine(model.read(signals)))
