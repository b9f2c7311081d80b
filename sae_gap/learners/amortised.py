"""Encoders trained for a given dictionary: how close can amortised inference come to the lasso's
optimum?
"""

import abc
from dataclasses import replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from equinox import apply_updates, field
from jax import lax, random, tree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from sae_gap.core import Model, check_sequence, check_type, option
from sae_gap.encoders import LISTA, AmortisedEncoder, Encoder, unit_atoms
from sae_gap.learners import Learner, base_of, batches, live_share
from sae_gap.runtime import sharding
from sae_gap.solvers import sparse_code


class _State(NamedTuple):
    """A model of the frozen dictionary, its frozen bias and the encoders, and the certified codes
    of the training signals, if these are learned.
    """

    model: Model
    codes: Float[Array, "n num_latents"] | None
    optimiser: PyTree
    key: PRNGKeyArray


# Samples in a step, and the rate of Adam at the start.
BATCH = 64
RATE = 1e-3


class TrainedEncoders(Learner):
    """Trains encoders by Adam for the dictionary of its base, which is scaled to unit atoms and
    then fixed.

    All encoders see the same batches, and none sees another. Each starts from its own `parameters`
    for the dictionary.

    Args:
      num_steps: epochs.
    """

    num_steps: int = option(default=200, kw_only=True)
    constants: ClassVar = {"batch_size": BATCH, "learning_rate": RATE}

    def __check_init__(self):
        base_of(self)

    @property
    def name(self):  # type: ignore[override]
        return base_of(self).name

    @abc.abstractmethod
    def trained(self) -> tuple[AmortisedEncoder, ...]:
        """The encoders to train."""

    def rate(self, num_updates):
        """Returns Adam's rate over this many updates."""
        return RATE

    @abc.abstractmethod
    def losses(self, model: Model, signals, codes, live) -> Float[Array, " n"]:
        """Returns the loss of each signal; `live` is the share of dimensions in which any signal is
        non-zero.
        """

    def codes(self, signals, dictionary) -> Float[Array, "n num_latents"] | None:
        """Returns the codes of signals to learn, or None."""

    def init(self, data, *, num_latents, key, base=None):
        dictionary, _ = unit_atoms(base.decoder)
        # A split uses 0 and 1.
        parameters = tuple(
            encoder.parameters(dictionary, random.fold_in(key, place))
            for place, encoder in enumerate(self.trained(), start=2)
        )
        codes = self.codes(data.signals - base.bias, dictionary)
        state = self._rule(data).init(parameters)
        return _State(Model(dictionary, base.bias, parameters), codes, state, key)

    def step(self, data, state):
        shuffle_key, key = random.split(state.key)
        live = live_share(data.signals)
        rule = self._rule(data)

        def loss(parameters, indices, weights):
            model = replace(state.model, encoder=parameters)
            batch = tree.map(lambda array: array[indices], (data.signals, state.codes))
            (signals, codes), weights = sharding.split_batch((batch, weights))
            return jnp.sum(weights * self.losses(model, signals, codes, live))

        def train_step(carry, batch):
            parameters, optimiser = carry
            updates, optimiser = rule.update(
                jax.grad(loss)(parameters, *batch), optimiser
            )
            return (apply_updates(parameters, updates), optimiser), None

        epoch = batches(shuffle_key, len(data.signals), BATCH)
        carry, _ = lax.scan(train_step, (state.model.encoder, state.optimiser), epoch)
        model = replace(state.model, encoder=carry[0])
        return _State(model, state.codes, carry[1], key)

    def model(self, state):
        return state.model

    def _rule(self, data):
        # Imported here, since --help need not wait for it.
        import optax

        return optax.adam(self.rate(self.num_steps * -(-len(data.signals) // BATCH)))


class Among(Encoder):
    """One of the encoders in an `Amortised` model."""

    encoder: AmortisedEncoder
    place: int = field(static=True, default=0)

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
        return self.encoder(replace(model, encoder=model.encoder[self.place]), signals)


class Amortised(TrainedEncoders):
    """Trains encoders on `mean ‖z_e - z*‖²`, where z* are certified lasso codes, found once.

    The rate of Adam decays to zero along half a cosine.

    Args:
      encoders: the encoders to train, each with its needs beside the dictionary. Encoder i of the
        model is `members[i]`.
      lam: weight of the l1 norm for z*.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML.
    """

    encoders: tuple[AmortisedEncoder, ...]
    lam: float = option(default=0.1, least=0)

    @property
    def members(self) -> tuple[Among, ...]:
        """The encoders in order, each reading its part of the model."""
        return tuple(
            Among(encoder, place) for place, encoder in enumerate(self.encoders)
        )

    def __check_init__(self):
        check_sequence(
            "encoders",
            self.encoders,
            AmortisedEncoder,
            "give a tuple of encoders such as (TopK(10),)",
        )

    def trained(self):
        return self.encoders

    @property
    def encode(self):
        return self.members[0] if len(self.encoders) == 1 else None

    def rate(self, num_updates):
        import optax

        return optax.cosine_decay_schedule(RATE, max(1, num_updates))

    def codes(self, signals, dictionary):
        return sparse_code(signals, dictionary, self.lam).codes

    def losses(self, model, signals, codes, live):
        return sum(
            jnp.sum((member(model, signals) - codes) ** 2, axis=1)
            for member in self.members
        )


class Lista(TrainedEncoders):
    """Trains LISTA on its own loss, `mean (y - b - D z)² + λ mean |z|`, as published; both means
    are over all entries.

    In the full, published form a layer has num_latents² parameters: at 1,000 latents parameters,
    gradient and moments take 240 MB, and at 10,000 latents 24 GB.

    Args:
      encoder: the encoder to train, which its methods also use.
      lam: λ.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML.
      Barin Pacela et al. (2026), arXiv:2603.28744.
    """

    encoder: LISTA = LISTA(factored=False, threshold=0.01)
    lam: float = option(default=0.1, least=0)

    def __check_init__(self):
        check_type("encoder", self.encoder, LISTA, "give LISTA(depth)")

    def trained(self):
        return (self.encoder,)

    def losses(self, model, signals, codes, live):
        codes = Among(self.encoder)(model, signals)
        error = (
            jnp.mean((signals - model.bias - codes @ model.decoder.T) ** 2, axis=1)
            / live
        )
        return error + self.lam * jnp.mean(jnp.abs(codes), axis=1)

    def model(self, state):
        return replace(state.model, encoder=state.model.encoder[0])
