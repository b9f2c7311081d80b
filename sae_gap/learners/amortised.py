"""Encoders trained for a dictionary that is given: how close can amortised inference come to the lasso's optimum?"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from sae_gap.core.checks import check_number, check_sequence, check_size
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import AmortisedEncoder, Encoder, unit_atoms
from sae_gap.learners.learner import Learner, batches
from sae_gap.runtime import sharding
from sae_gap.solvers import sparse_code


class AmortisedState(eqx.Module):
    """The dictionary and its bias are frozen, and so are the certified codes of the training signals on it."""

    model: Model
    codes: Float[Array, "n num_latents"]
    optimiser: PyTree
    key: PRNGKeyArray


class Among(Encoder):
    """One of the encoders that an `Amortised` model holds."""

    encoder: AmortisedEncoder
    place: int = eqx.field(static=True, default=0)

    @property
    def name(self):  # type: ignore[override]
        return self.encoder.name

    @property
    def coordinates(self):
        return self.encoder.coordinates

    @property
    def signed(self):
        return self.encoder.signed

    def __call__(self, model, signals):
        return self.encoder(dataclasses.replace(model, encoder=model.encoder[self.place]), signals)


class Amortised(Learner):
    """Trains encoders on `mean ‖z_e - z*‖²`, where z* are certified lasso codes on the dictionary of the base, which stays.

    The atoms of the base are scaled to unit length, and the codes of the training signals are found once. All encoders then
    see the same batches; none sees another. Each starts from its own `parameters` of the dictionary. Adam, its rate decaying to
    zero along half a cosine.

    Args:
      encoders: what to train, each with what it needs beside the dictionary. Encoder i of the model is `members[i]`.
      lam: weight of the l1 norm in z*.
      base: whose dictionary it is.
      num_steps: epochs.
      batch_size: samples in a step.
      learning_rate: of Adam at the beginning.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML.
    """

    encoders: tuple[AmortisedEncoder, ...]
    lam: float = 0.1
    num_steps: int = eqx.field(static=True, default=200, kw_only=True)
    batch_size: int = eqx.field(static=True, default=64)
    learning_rate: float = 1e-3

    side_by_side = False

    @property
    def members(self) -> tuple[Among, ...]:
        """The encoders, in their order, as they read the model."""
        return tuple(Among(encoder, place) for place, encoder in enumerate(self.encoders))

    def __check_init__(self):
        if self.base is None:
            raise ValueError("an amortised encoder needs a base, the learner whose dictionary it is trained for; give base.")
        check_sequence("encoders", self.encoders, AmortisedEncoder, "give a tuple of encoders such as (TopK(10),)")
        check_number("lam", self.lam, least=0)
        for name in ("num_steps", "batch_size"):
            check_size(name, getattr(self, name))
        check_number("learning_rate", self.learning_rate, above=0)

    @property
    def name(self):  # type: ignore[override]
        return super().name if self.base is None else self.base.name

    @property
    def encode(self):
        return self.members[0] if len(self.encoders) == 1 else None

    def init(self, data, *, num_latents, key, base=None):
        dictionary, _ = unit_atoms(base.decoder)
        codes = sparse_code(data.signals - base.bias, dictionary, self.lam).codes
        # A split takes 0 and 1.
        keys = (jax.random.fold_in(key, 2 + place) for place in range(len(self.encoders)))
        parameters = tuple(encoder.parameters(dictionary, own) for encoder, own in zip(self.encoders, keys, strict=True))
        optimiser = self._optimiser(len(data.signals)).init(parameters)
        return AmortisedState(Model(dictionary, base.bias, parameters), codes, optimiser, key)

    def step(self, data, state):
        signals = data.signals
        shuffle_key, key = jax.random.split(state.key)

        def loss(parameters, indices, weights):
            model = dataclasses.replace(state.model, encoder=parameters)
            batch, best, weights = sharding.split_batch((signals[indices], state.codes[indices], weights))
            codes = (member(model, batch) for member in self.members)
            return sum(jnp.sum(weights * jnp.sum((code - best) ** 2, axis=1)) for code in codes)

        def train_step(carry, batch):
            parameters, optimiser = carry
            updates, optimiser = self._optimiser(len(signals)).update(jax.grad(loss)(parameters, *batch), optimiser)
            return (optax.apply_updates(parameters, updates), optimiser), None

        epoch = batches(shuffle_key, len(signals), self.batch_size)
        (parameters, optimiser), _ = jax.lax.scan(train_step, (state.model.encoder, state.optimiser), epoch)
        return AmortisedState(dataclasses.replace(state.model, encoder=parameters), state.codes, optimiser, key)

    def model(self, state):
        return state.model

    def _optimiser(self, num_samples: int):
        num_updates = self.num_steps * -(-num_samples // self.batch_size)
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, max(1, num_updates)))
