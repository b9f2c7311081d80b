"""The BatchTopK encoder with steps of LISTA: what the codes so far leave unexplained is encoded as
well.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core.checks import check_number
from sae_gap.encoders.batchtopk import running_threshold
from sae_gap.encoders.lista_topk import LISTATopK, LISTATopKParameters
from sae_gap.encoders.topk import keep_largest


class LISTABatchTopKParameters(LISTATopKParameters):
    """The affine map of each step and its θ, the one threshold of all latents."""

    thresholds: Float[Array, " depth"]


class LISTABatchTopK(LISTATopK):
    """`z ← h · 1[h > θ_t]` with `h = relu(z + (y - b - D z) W_t + c_t)` for each step t, from
    `z = 0`; one step is BatchTopK.

    In training each step keeps the k · n largest `h` of a batch of n. θ_t is a running mean of the
    smallest value that it keeps, and no gradient trains it.

    Args:
      k: latents a sample after each step, on average over a batch.
      depth: steps, each with parameters of its own.
      rate: weight of the newest batch in θ; the first batch sets it.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML; Bussmann, Leask
      & Nanda (2024), "BatchTopK sparse autoencoders", arXiv:2412.06410.
    """

    name = "lista_batchtopk"
    label = "LISTA-BatchTopK"
    colour = "#A6761D"
    rank = 9

    rate: float | Array = 0.01

    def __check_init__(self):
        check_number("rate", self.rate, above=0, most=1)

    def parameters(self, weight, key):
        return LISTABatchTopKParameters(
            super().parameters(weight, key).steps, jnp.zeros(self.depth, weight.dtype)
        )

    def __call__(self, model, signals):
        thresholds = model.encoder.thresholds
        return self.iterates(
            model, signals, lambda hidden, step: jnp.where(hidden > thresholds[step], hidden, 0)
        )[-1]

    def loss(self, model, signals, penalty):
        def keep(hidden, _):
            return keep_largest(hidden.reshape(1, -1), self.k * len(hidden)).reshape(hidden.shape)

        steps = self.iterates(model, signals, keep)
        thresholds = [
            running_threshold(*pair, self.rate)
            for pair in zip(model.encoder.thresholds, steps, strict=True)
        ]
        return self.errors(model, signals, steps[-1]), jnp.stack(thresholds)

    def observe(self, model, seen):
        return eqx.tree_at(lambda model: model.encoder.thresholds, model, seen)
