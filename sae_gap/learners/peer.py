"""The common part of the dictionary learners of other libraries, which ours are compared with on
the host.
"""

import abc
import importlib
from types import ModuleType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core import Model, Split, option, unit_columns
from sae_gap.learners import HostLearner


class Peer(HostLearner):
    """A learner of another library: minibatches of `½‖y - D z‖² + λ‖z‖₁`, z ≥ 0, on one thread.

    Its seeds have the machine to themselves, one after the other. Our seeds have a core each if
    there are as many seeds as cores, and more cores if there are fewer seeds.

    It starts from random training samples with unit atoms. The key chooses these, and the order of
    samples if the library allows that.

    Args:
      lam: weight of the l1 norm.
      batch_size: samples in a step.
      num_steps: number of minibatches.
    """

    family = "peer"

    lam: float = option(default=0.1, least=0)
    batch_size: int = option(default=256)

    module: ClassVar[str]

    @classmethod
    def library(cls) -> ModuleType:
        """Returns the library's module; raises an ImportError if it is not installed."""
        return importlib.import_module(cls.module)

    def learn(self, data: Split, *, num_latents: int, key: PRNGKeyArray) -> Model:
        signals = np.asarray(data.signals)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        chosen = rng.choice(len(signals), num_latents, replace=len(signals) < num_latents)
        dictionary = self.dictionary(signals, unit_columns(signals[chosen].T), rng)
        return Model(
            jnp.asarray(dictionary, signals.dtype), jnp.zeros(signals.shape[1], signals.dtype)
        )

    @abc.abstractmethod
    def dictionary(
        self,
        signals: Float[np.ndarray, "n input_dim"],
        start: Float[np.ndarray, "input_dim latent"],
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "input_dim latent"]:
        """Returns the dictionary after `num_steps` minibatches, from a given one."""
