"""Sparse autoencoders: one training loop, whatever the encoder."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from sae_gap.encoders.base import AmortisedEncoder, unit_atoms
from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.gated import Gated
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.base import Learner, batches
from sae_gap.types import Model, Split


class SAEState(eqx.Module):
    model: Model
    optimiser: PyTree
    epoch: Int[Array, ""]
    key: PRNGKeyArray


class SparseAutoencoder(Learner):
    """Trains an encoder and a dictionary together on `mean (y - b - D z)² + penalty · mean P(z)`.

    The encoder starts uniform on ±1/√input_dim, the dictionary as its transpose with unit atoms. AdamW with weight decay on
    every parameter; before each step the dictionary's gradient is projected orthogonal to its atoms (`g - (g·d) d`), which
    are rescaled to unit norm every `renormalise_every` epochs. Each epoch visits every sample once in a fresh order, the
    last batch being smaller.

    Args:
      encoder: what to train, with its sparsity penalty P.
      num_steps: epochs.
      batch_size: samples in a step.
      learning_rate: of AdamW.
      weight_decay: of AdamW, on every parameter.
      penalty: weight of the encoder's penalty.
      renormalise_every: epochs between renormalisations; the first follows epoch 0.

    References:
      Barin Pacela et al. (2026), arXiv:2603.28744, appendix. Loshchilov & Hutter (2019), "Decoupled weight decay".
    """

    encoder: AmortisedEncoder
    num_steps: int = eqx.field(static=True, default=500, kw_only=True)
    batch_size: int = eqx.field(static=True, default=64)
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    penalty: float = 1e-4
    renormalise_every: int = eqx.field(static=True, default=50)

    @property
    def encode(self):
        return self.encoder

    def _optimiser(self):
        return optax.adamw(self.learning_rate, b1=0.9, b2=0.999, weight_decay=self.weight_decay)

    def init(self, data: Split, *, num_latents: int, key: PRNGKeyArray) -> SAEState:
        input_dim = data.signals.shape[1]
        weights_key, key = jax.random.split(key)
        bound = input_dim**-0.5
        weight = jax.random.uniform(weights_key, (input_dim, num_latents), data.signals.dtype, minval=-bound, maxval=bound)
        model = Model(unit_atoms(weight)[0], jnp.zeros(input_dim, weight.dtype), self.encoder.parameters(weight))
        return SAEState(model, self._optimiser().init(model), jnp.zeros((), jnp.int32), key)

    def step(self, data: Split, state: SAEState) -> SAEState:
        shuffle_key, key = jax.random.split(state.key)
        epoch = batches(shuffle_key, len(data.signals), self.batch_size)

        def train_step(carry, batch):
            indices, weight = batch
            model, optimiser = carry
            return self._update(model, optimiser, data.signals[indices], weight), None

        (model, optimiser), _ = jax.lax.scan(train_step, (state.model, state.optimiser), epoch)
        renormalise = state.epoch % self.renormalise_every == 0
        dictionary = jnp.where(renormalise, unit_atoms(model.decoder)[0], model.decoder)
        model = eqx.tree_at(lambda model: model.dictionary, model, dictionary)
        return SAEState(model, optimiser, state.epoch + 1, key)

    def model(self, state: SAEState) -> Model:
        return state.model

    def _update(self, model: Model, optimiser: PyTree, signals, weights):
        def loss(model):
            losses, seen = self.encoder.loss(model, signals, self.penalty)
            return jnp.sum(weights * losses), seen

        gradient, seen = jax.grad(loss, has_aux=True)(model)
        atoms, slope = model.decoder, gradient.decoder
        # As published, atoms count as unit here. Between renormalisations they are so to a percent, and what that leaves of
        # a radial gradient shows in the norms of an l1-penalised dictionary.
        radial = jnp.sum(slope * atoms, axis=0)
        gradient = eqx.tree_at(lambda model: model.dictionary, gradient, slope - radial * atoms)
        updates, optimiser = self._optimiser().update(gradient, optimiser, model)
        return self.encoder.observe(optax.apply_updates(model, updates), seen), optimiser


# The encoder given the sparsity, the learning rate, and the penalty times input_dim, since the squared error is a mean over it.
# Found without a look at the truth, on seeds 0 and 1 of 100 latents, sparsity 5, 2,500 training samples and 10,000 steps. The
# rate is the one among 5e-4, 1e-3, 2e-3 and 5e-3 (at 1e-2 TopK, BatchTopK, Matryoshka and ReLU collapse) of the least held-out
# squared error or, with a penalty, which that error would have vanish, of the least held-out loss. At 5e-3 the gated loss falls
# by atoms half as long again, so Gated has the rate of the least error beside its L0. A penalty is the one whose held-out L0
# comes near the sparsity, which TopK and its kin are told; it does so at sparsity 10 too. Gated's and JumpReLU's were moved by
# a fifth after their rates were found. JumpReLU's published window holds too few values to learn by: here it is as wide as the
# initial threshold is high. A rate that warms up and decays changed the least error without a penalty by under 2 % on seed 0,
# and is left out.
TUNED: dict[str, tuple[Callable[[int], AmortisedEncoder], float, float]] = {
    "relu": (lambda sparsity: ReLU(), 2e-3, 0.3),
    "topk": (TopK, 1e-3, 0.0),
    "jumprelu": (lambda sparsity: JumpReLU(threshold=0.1, bandwidth=0.1), 1e-3, 0.03),
    "mp": (MatchingPursuit, 5e-3, 0.0),
    "batchtopk": (BatchTopK, 1e-3, 0.0),
    "matryoshka": (MatryoshkaBatchTopK, 1e-3, 0.0),
    "gated": (lambda sparsity: Gated(), 1e-3, 0.5),
}


def tuned(name: str, *, sparsity: int, input_dim: int, **options: Any) -> SparseAutoencoder:
    """A sparse autoencoder with the encoder, the rate and the penalty that `TUNED` has, in place of the published ones.

    Args:
      name: one of `TUNED`.
      sparsity: k of the encoders that need one.
      input_dim: dimension of the signals.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    make, rate, penalty = TUNED[name]
    return SparseAutoencoder(make(sparsity), learning_rate=rate, penalty=penalty / input_dim, **options)
