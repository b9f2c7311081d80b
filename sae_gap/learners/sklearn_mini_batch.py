"""Online dictionary learning by scikit-learn."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_gap.core import option
from sae_gap.learners import Peer


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

    def train(
        self,
        signals: Float[np.ndarray, "n input_dim"],
        start: Float[np.ndarray, "input_dim latent"],
        rng,
    ) -> Any:
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
        signals, order = signals.astype(np.float64), np.empty(0, np.int64)
        with warnings.catch_warnings():
            # Ignore its warnings of codes that are still unfinished.
            warnings.simplefilter("ignore")
            for _ in range(self.num_steps):
                order = order if order.size else rng.permutation(len(signals))
                estimator.partial_fit(signals[order[: self.batch_size]])
                order = order[self.batch_size :]
        return estimator
