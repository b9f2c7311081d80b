"""Dictionary learners of other libraries, that ours are compared with: SPAMS and scikit-learn, on the host."""

import importlib
import warnings
from types import ModuleType
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.checks import check_number, check_size
from sae_gap.core.matching import unit_columns
from sae_gap.core.types import Model, Split
from sae_gap.learners.learner import Learner


class Peer(Learner):
    """A learner of another library: minibatches of `½‖y - D z‖² + λ‖z‖₁`, z ≥ 0, on one thread.

    Its seeds have the machine to themselves, one after the other. Seeds of ours have a core each where there are as many seeds
    as cores, and more of them where there are fewer.

    Starts from random training samples with unit atoms, which the key chooses, as it does the order of samples where the
    library lets it.

    Args:
      lam: weight of the l1 norm.
      batch_size: samples in a step.
      num_steps: minibatches.
    """

    lam: float = 0.1
    batch_size: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        check_number("lam", self.lam, least=0)
        for name in ("num_steps", "batch_size"):
            check_size(name, getattr(self, name))

    on_host = True
    module: ClassVar[str]

    @classmethod
    def library(cls) -> ModuleType:
        """The module that does the work.

        Raises:
          ImportError: it is not installed.
        """
        return importlib.import_module(cls.module)

    def learn(self, data: Split, *, num_latents: int, key: PRNGKeyArray) -> Model:
        signals = np.asarray(data.signals)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        chosen = rng.choice(len(signals), num_latents, replace=len(signals) < num_latents)
        dictionary = self.dictionary(signals, unit_columns(signals[chosen].T), rng)
        return Model(jnp.asarray(dictionary, signals.dtype), jnp.zeros(signals.shape[1], signals.dtype))

    def dictionary(
        self, signals: Float[np.ndarray, "n input_dim"], start: Float[np.ndarray, "input_dim latent"], rng: np.random.Generator
    ) -> Float[np.ndarray, "input_dim latent"]:
        """The dictionary after `num_steps` minibatches, from a given one."""
        raise NotImplementedError


class SpamsTrainDL(Peer):
    """Online dictionary learning by SPAMS: exact codes by LARS, then block coordinate descent on the dictionary.

    References:
      Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse coding", JMLR 11.
    """

    num_steps: int = eqx.field(static=True, default=5_000, kw_only=True)

    module = "spams"
    packages = ("spams-bin",)

    @property
    def name(self):
        return "spams"

    def dictionary(self, signals, start, rng):
        # Mode 2 is ½‖y - D z‖² + λ‖z‖₁, samples are columns, and the default of numThreads is every core.
        options: dict[str, Any] = {"mode": 2, "posAlpha": True, "numThreads": 1, "verbose": False}
        options |= {"lambda1": self.lam, "iter": self.num_steps, "batchsize": self.batch_size}
        return self.library().trainDL(np.asfortranarray(signals.T), D=np.asfortranarray(start), **options)


class SklearnMiniBatch(Peer):
    """The same algorithm by scikit-learn, with codes by coordinate descent, the only ones it has that are non-negative.

    A step takes up to ten times as long as SPAMS's, so there are fewer of them. Each pass has a fresh order.

    References:
      Pedregosa et al. (2011), "Scikit-learn: machine learning in Python", JMLR 12.
    """

    num_steps: int = eqx.field(static=True, default=1_000, kw_only=True)

    module = "sklearn.decomposition"
    packages = ("scikit-learn",)

    @property
    def name(self):
        return "sklearn"

    def estimator(self, start: Float[np.ndarray, "input_dim latent"]) -> Any:
        # Its objective is the sum over samples of ½‖y - D z‖² + α‖z‖₁, so that α is λ as it is.
        coding: dict[str, Any] = {"fit_algorithm": "cd", "transform_algorithm": "lasso_cd", "positive_code": True}
        atoms = np.ascontiguousarray(start.T)
        return self.library().MiniBatchDictionaryLearning(
            len(atoms), alpha=self.lam, batch_size=self.batch_size, dict_init=atoms, random_state=0, **coding
        )

    def dictionary(self, signals, start, rng):
        return self.train(signals, start, rng).components_.T

    def train(self, signals: Float[np.ndarray, "n input_dim"], start: Float[np.ndarray, "input_dim latent"], rng) -> Any:
        """The estimator after `num_steps` minibatches."""
        estimator = self.estimator(start.astype(np.float64))
        # In float32 its coordinate descent never reaches its tolerance, and takes all the iterations it may.
        signals, order = signals.astype(np.float64), np.empty(0, np.int64)
        with warnings.catch_warnings():
            # The codes that it leaves unfinished all the same are its own affair.
            warnings.simplefilter("ignore")
            for _ in range(self.num_steps):
                order = order if order.size else rng.permutation(len(signals))
                estimator.partial_fit(signals[order[: self.batch_size]])
                order = order[self.batch_size :]
        return estimator
