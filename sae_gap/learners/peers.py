"""The dictionary learners of other libraries, which ours are compared with on the host."""

import abc
import importlib
import warnings
from types import ModuleType
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import random

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

    def learn(self, data: Split, *, num_latents, key):
        signals = np.asarray(data.signals)
        rng = np.random.default_rng(np.asarray(random.key_data(key)))
        chosen = rng.choice(
            len(signals), num_latents, replace=len(signals) < num_latents
        )
        dictionary = self.dictionary(signals, unit_columns(signals[chosen].T), rng)
        return Model(jnp.asarray(dictionary, signals.dtype), jnp.zeros_like(signals[0]))

    @abc.abstractmethod
    def dictionary(
        self, signals: np.ndarray, start: np.ndarray, rng: np.random.Generator
    ):
        """Returns the dictionary after `num_steps` minibatches of signals, `(n, input_dim)`, from a
        given one, `(input_dim, num_latents)`.
        """


class SklearnMiniBatch(Peer):
    """Scikit-learn's version of the same algorithm, with codes by coordinate descent, its only
    non-negative ones.

    A step takes up to ten times as long as one of SPAMS, so there are fewer steps. Each pass has a
    fresh order.

    References:
      Pedregosa et al. (2011), "Scikit-learn: machine learning in Python", JMLR 12.
    """

    name = "sklearn"
    label = "scikit-learn"
    colour = "#44AA99"
    rank = 2

    num_steps: int = option(default=1_000, kw_only=True)

    module = "sklearn.decomposition"

    def dictionary(self, signals, start, rng):
        return self.train(signals, start, rng).components_.T

    def train(self, signals, start, rng):
        """Returns the estimator after `num_steps` minibatches."""
        # Its objective is the sum over samples of ½‖y - D z‖² + α‖z‖₁, so α is λ unchanged.
        estimator = self.library().MiniBatchDictionaryLearning(
            start.shape[1],
            alpha=self.lam,
            batch_size=self.batch_size,
            dict_init=np.ascontiguousarray(start.T.astype(np.float64)),
            random_state=0,
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
            positive_code=True,
        )
        # In float32 its coordinate descent never reaches its tolerance, and uses all its
        # iterations.
        signals = signals.astype(np.float64)
        order = np.empty(0, np.int64)
        with warnings.catch_warnings():
            # Ignore its warnings of codes that are still unfinished.
            warnings.simplefilter("ignore")
            for _ in range(self.num_steps):
                order = order if order.size else rng.permutation(len(signals))
                estimator.partial_fit(signals[order[: self.batch_size]])
                order = order[self.batch_size :]
        return estimator


class SpamsTrainDL(Peer):
    """Online dictionary learning by SPAMS: exact codes by LARS, then block coordinate descent on
    the dictionary.

    References:
      Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
      coding", JMLR 11.
    """

    name = "spams"
    label = "SPAMS"
    colour = "#117733"
    rank = 1

    num_steps: int = option(default=5_000, kw_only=True)

    module = "spams"

    def dictionary(self, signals, start, rng):
        # Mode 2 is ½‖y - D z‖² + λ‖z‖₁, samples are columns, and numThreads is by default every
        # core.
        return self.library().trainDL(
            np.asfortranarray(signals.T),
            D=np.asfortranarray(start),
            mode=2,
            posAlpha=True,
            numThreads=1,
            verbose=False,
            lambda1=self.lam,
            iter=self.num_steps,
            batchsize=self.batch_size,
        )
