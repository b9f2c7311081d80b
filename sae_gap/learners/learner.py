"""The base of all learners: frozen hyper-parameters, and pure methods that pass a state on."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from sae_gap.core import (
    MethodPart,
    Model,
    Split,
    Task,
    Transcoder,
    check_type,
    option,
)
from sae_gap.data.activations import outliers
from sae_gap.encoders import Encoder, unit_atoms


class Learner(MethodPart):
    """Frozen hyper-parameters and pure methods; only the state that they pass on changes.

    `num_steps` is the number of steps of a fit: epochs, or rounds. `base` is a learner whose model
    this one starts from: it is fitted first, like any other, and `init` or `learn` gets its model
    as `base`.

    Float hyper-parameters enter the compiled loop as arrays, so a sweep over them compiles once.
    Anything that sets a shape or a loop length is a static field. A subclass defines `init`, `step`
    and `model`, and may define `done` and `select`.
    """

    num_steps: int = option(default=0, least=0, kw_only=True)
    base: "Learner | None" = eqx.field(default=None, kw_only=True)
    # The kind of method: baseline, probe, sae, dictionary_learning, peer or oracle, or another
    # word.
    family: ClassVar[str] = "dictionary_learning"
    # Steps at which a stored fit always keeps its model, so that a study along the fit need not
    # repeat the fit.
    snapshots: ClassVar[tuple[int, ...]] = ()

    def __check_init__(self):
        check_type(
            "base",
            self.base,
            (Learner, type(None)),
            "give the learner whose model this one goes on from",
        )

    @property
    def coordinates(self) -> dict[str, str | int | float]:
        """The columns that tell rows of its dictionary from others."""
        return {"dictionary": self.name}

    @property
    def encode(self) -> Encoder | None:
        """The encoder that is trained together with the dictionary, or None."""
        return None

    @property
    def ready(self) -> Model | None:
        """The model, if it is known without reading or learning anything; else None."""
        return None

    @property
    def signed(self) -> bool:
        """True if codes on its dictionary may be negative."""
        return self.encode is not None and self.encode.signed

    @property
    def transcodes(self) -> bool:
        """True if its encoder reads another activation than it explains."""
        return isinstance(self.ready, Transcoder)

    def needs(self, task: Task) -> str | None:
        """Names what the task lacks and the learner or its base needs; None if nothing."""
        return None if self.base is None else self.base.needs(task)

    def select(self, task: Task) -> PyTree:
        """Returns the part of a task that the learner may see: by default the training signals,
        with outliers scaled down.
        """
        return Split(outliers.scale_down(task.train.signals))

    def init(self, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> PyTree:
        """Returns the state before the first step; a learner on a base gets the base's model as
        `base`.
        """
        raise NotImplementedError

    def step(self, data: PyTree, state: PyTree) -> PyTree:
        """Returns the state after one more step: an epoch, or a round."""
        raise NotImplementedError

    def model(self, state: PyTree) -> Model:
        """Returns the model learned so far; by default the state is its parts."""
        return Model(*state)

    def done(self, state: PyTree) -> Bool[Array, ""] | bool:
        """Tells whether to stop before `num_steps`; the constant False means never."""
        return False


class HostLearner(Learner):
    """A learner that works in Python, on the host: it defines `learn` rather than `init`, `step`
    and `model`.
    """

    @abc.abstractmethod
    def learn(self, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> Model:
        """Learns a model from the data that `select` returned; a learner on a base gets the base's
        model as `base`.
        """


def base_of(learner: Learner) -> Learner:
    """Returns the base of a learner that needs one; raises a ValueError if it has none."""
    if learner.base is None:
        raise ValueError(
            f"{type(learner).__name__} needs a base, the learner whose model it goes on from; give "
            "base."
        )
    return learner.base


def takes_steps(kind: type[Learner]) -> bool:
    """True if `num_steps` matters to a class of learners."""
    return kind.step is not Learner.step or issubclass(kind, HostLearner)


def live_dims(signals: Float[Array, "n input_dim"]) -> Bool[Array, " input_dim"]:
    """Marks the dimensions in which any signal is non-zero: all but those that padding added."""
    return jnp.any(signals != 0, axis=0)


def live_share(signals: Float[Array, "n input_dim"]) -> Float[Array, ""]:
    """Returns the share of live dimensions; a mean over all dimensions, divided by it, is one over
    the live ones. It is 1 if none is live.
    """
    share = jnp.mean(live_dims(signals), dtype=signals.dtype)
    return jnp.where(share > 0, share, 1)


def random_atoms(
    key: PRNGKeyArray, signals: Float[Array, "n input_dim"], num_latents: int
) -> Float[Array, "input_dim num_latents"]:
    """Draws unit atoms in random directions, without the dimensions that padding added."""
    atoms = random.normal(key, (signals.shape[1], num_latents), signals.dtype)
    return unit_atoms(jnp.where(live_dims(signals)[:, None], atoms, 0))[0]


def batches(
    key: PRNGKeyArray, num_samples: int, batch_size: int
) -> tuple[
    Int[Array, "num_batches batch_size"], Float[Array, "num_batches batch_size"]
]:
    """Draws an epoch in a fresh order: the indices of each batch, and weights that average over the
    batch's real samples.

    The last, smaller batch is padded with samples of weight zero.
    """
    num_batches = -(-num_samples // batch_size)
    shape = num_batches, batch_size
    order = jnp.resize(random.permutation(key, num_samples), shape)
    real = jnp.arange(num_batches * batch_size).reshape(shape) < num_samples
    return order, real / jnp.sum(real, axis=1, keepdims=True)
