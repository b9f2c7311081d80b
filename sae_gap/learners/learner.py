"""What every learner is: frozen hyper-parameters, and pure methods that pass a state on."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from sae_gap.core.checks import check_integer, check_type
from sae_gap.core.identity import MethodPart
from sae_gap.core.options import option
from sae_gap.core.types import Model, Split, Task
from sae_gap.data.activations import outliers
from sae_gap.encoders.encoder import Encoder


class Learner(MethodPart):
    """Frozen hyper-parameters and pure methods; what changes is the state that they pass on.

    `num_steps` is how many steps a fit takes: epochs, or rounds. `base` is a learner whose model
    this one goes on from: it is fitted first, like any other, and its model is handed to `init` or
    `learn` as `base`.

    Float hyper-parameters enter the compiled loop as arrays, so a sweep over them compiles once.
    Whatever sets a shape or a loop length is a static field. A subclass defines `init`, `step` and
    `model`, and may define `done` and `select`.
    """

    num_steps: int = option(default=0, least=0, kw_only=True)
    base: "Learner | None" = eqx.field(default=None, kw_only=True)
    # The kind of method that it makes: baseline, probe, sae, dictionary_learning, peer or oracle,
    # or a word of its own.
    family: ClassVar[str] = "dictionary_learning"
    # Steps at which a stored fit keeps its model, whoever asked for the fit, so that a study along
    # the fit need not repeat it.
    snapshots: ClassVar[tuple[int, ...]] = ()

    def __check_init__(self):
        check_integer("num_steps", self.num_steps, least=0)
        check_type(
            "base",
            self.base,
            (Learner, type(None)),
            "give the learner whose model this one goes on from",
        )

    @property
    def coordinates(self) -> dict[str, str | int | float]:
        """The columns that tell a row of its dictionary from those of others."""
        return {"dictionary": self.name}

    @property
    def encode(self) -> Encoder | None:
        """The encoder that is trained along with the dictionary, if one is."""
        return None

    @property
    def ready(self) -> Model | None:
        """The model, where it is at hand and nothing has to be read or learned; else None."""
        return None

    @property
    def signed(self) -> bool:
        """Whether codes on its dictionary may be negative."""
        return self.encode is not None and self.encode.signed

    def needs(self, task: Task) -> str | None:
        """What the task lacks that the learner, or its base, cannot do without; or None."""
        return None if self.base is None else self.base.needs(task)

    def select(self, task: Task) -> PyTree:
        """All that the learner may see of a task: the training signals, outliers scaled down,
        unless it says otherwise.
        """
        return Split(outliers.scale_down(task.train.signals))

    def init(self, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> PyTree:
        """The state before the first step; a learner on a base is given its model as the keyword
        `base`.
        """
        raise NotImplementedError

    def step(self, data: PyTree, state: PyTree) -> PyTree:
        """The state one step on: an epoch, or a round."""
        raise NotImplementedError

    def model(self, state: PyTree) -> Model:
        """What has been learned so far."""
        raise NotImplementedError

    def done(self, state: PyTree) -> Bool[Array, ""] | bool:
        """Whether to stop before `num_steps`; False never asks."""
        return False


class HostLearner(Learner):
    """A learner that does all in Python, on the host: it defines `learn` in the place of `init`,
    `step` and `model`.
    """

    @abc.abstractmethod
    def learn(self, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> Model:
        """What it selects of a task in, a model out; one on a base is given its model as the
        keyword `base`.
        """


def base_of(learner: Learner) -> Learner:
    """The base of a learner that cannot do without, or a ValueError."""
    if learner.base is None:
        raise ValueError(
            f"{type(learner).__name__} needs a base, the learner whose model it goes on from; give "
            "base."
        )
    return learner.base


def takes_steps(kind: type[Learner]) -> bool:
    """Whether `num_steps` means anything to a class of learners."""
    return kind.step is not Learner.step or issubclass(kind, HostLearner)


def live_dims(signals: Float[Array, "n input_dim"]) -> Bool[Array, " input_dim"]:
    """The dimensions in which any signal is not zero: all, but for those that padding has added."""
    return jnp.any(signals != 0, axis=0)


def live_share(signals: Float[Array, "n input_dim"]) -> Float[Array, ""]:
    """The share of dimensions that are live, by which a mean over all is divided to be one over
    those; 1 if none is.
    """
    share = jnp.mean(live_dims(signals), dtype=signals.dtype)
    return jnp.where(share > 0, share, 1)


def batches(
    key: PRNGKeyArray, num_samples: int, batch_size: int
) -> tuple[Int[Array, "num_batches batch_size"], Float[Array, "num_batches batch_size"]]:
    """An epoch in a fresh order: indices of each batch, and weights that average over the samples
    it really has.

    The last, smaller batch is padded with samples of weight zero.
    """
    num_batches = -(-num_samples // batch_size)
    padded = num_batches * batch_size
    order = jnp.resize(jax.random.permutation(key, num_samples), (padded,)).reshape(
        num_batches, batch_size
    )
    real = (
        (jnp.arange(padded) < num_samples)
        .reshape(num_batches, batch_size)
        .astype(jnp.zeros(()).dtype)
    )
    return order, real / jnp.sum(real, axis=1, keepdims=True)
