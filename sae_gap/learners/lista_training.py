"""LISTA trained on its own loss for a dictionary that is given, as published."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, PyTree

from sae_gap.core.checks import check_number, check_size, check_type
from sae_gap.core.types import Model, Split
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.encoders.lista import LISTA
from sae_gap.learners.learner import Learner, batches, live_share
from sae_gap.runtime import sharding


class ListaState(eqx.Module):
    """The dictionary and its bias are frozen."""

    model: Model
    optimiser: PyTree
    key: PRNGKeyArray


class Lista(Learner):
    """Trains LISTA on `mean (y - b - D z)² + λ mean |z|` by Adam, where D is the dictionary of the base, with unit atoms.

    Both means are over all entries. In the full form, which is the published one, a layer has num_latents² parameters: at 1,000
    latents parameters, gradient and moments take 240 MB, and at 10,000 latents 24 GB.

    Args:
      encoder: what to train; also the encoder of its methods.
      lam: λ.
      base: whose dictionary it is.
      num_steps: epochs.
      batch_size: samples in a step.
      learning_rate: of Adam.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML.
      Barin Pacela et al. (2026), arXiv:2603.28744.
    """

    encoder: LISTA = LISTA(factored=False, threshold=0.01)
    lam: float = 0.1
    num_steps: int = eqx.field(static=True, default=200, kw_only=True)
    batch_size: int = eqx.field(static=True, default=64)
    learning_rate: float = 1e-3

    def __check_init__(self):
        if self.base is None:
            raise ValueError("LISTA needs a base, the learner whose dictionary it is trained for; give base.")
        check_type("encoder", self.encoder, LISTA, "give LISTA(depth)")
        check_number("lam", self.lam, least=0)
        for name in ("num_steps", "batch_size"):
            check_size(name, getattr(self, name))
        check_number("learning_rate", self.learning_rate, above=0)

    @property
    def name(self):  # type: ignore[override]
        return super().name if self.base is None else self.base.name

    def work(self, num_samples, input_dim, num_latents):
        layer = input_dim * num_latents if self.encoder.factored else num_latents**2
        return 3.0 * self.num_steps * num_samples * self.encoder.depth * (input_dim * num_latents + layer)

    def init(self, data, *, num_latents, key, base=None):
        dictionary, _ = unit_atoms(base.decoder)
        model = Model(dictionary, base.bias, self.encoder.parameters(dictionary, jax.random.fold_in(key, 2)))
        return ListaState(model, self._optimiser().init(model.encoder), key)

    def step(self, data: Split, state: ListaState) -> ListaState:
        shuffle_key, key = jax.random.split(state.key)
        live = live_share(data.signals)

        def loss(parameters, indices, weights):
            model = dataclasses.replace(state.model, encoder=parameters)
            signals, weights = sharding.split_batch((data.signals[indices], weights))
            codes = self.encoder(model, signals)
            error = jnp.mean((signals - model.bias - codes @ model.decoder.T) ** 2, axis=1) / live
            return jnp.sum(weights * (error + self.lam * jnp.mean(jnp.abs(codes), axis=1)))

        def train_step(carry, batch):
            parameters, optimiser = carry
            updates, optimiser = self._optimiser().update(jax.grad(loss)(parameters, *batch), optimiser)
            return (optax.apply_updates(parameters, updates), optimiser), None

        epoch = batches(shuffle_key, len(data.signals), self.batch_size)
        (parameters, optimiser), _ = jax.lax.scan(train_step, (state.model.encoder, state.optimiser), epoch)
        return ListaState(dataclasses.replace(state.model, encoder=parameters), optimiser, key)

    def model(self, state: ListaState) -> Model:
        return state.model

    def _optimiser(self):
        return optax.adam(self.learning_rate)
