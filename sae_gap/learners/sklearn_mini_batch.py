"""Online dictionary learning by scikit-learn."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_gap.core.options import option
from sae_gap.learners.peer import Peer


class SklearnMiniBatch(Peer):
    """The same algorithm by scikit-learn, with codes by coordinate descent, the only ones it has
    that are non-negative.

    A step takes up to ten times as long as SPAMS's, so there are fewer of them. Each pass has a
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
        """The estimator after `num_steps` minibatches."""
        # Its objective is the sum over samples of ½‖y - D z‖² + α‖z‖₁, so that α is λ as it is.
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
        # In float32 its coordinate descent never reaches its tolerance, and takes all the
        # iterations it may.
        signals, order = signals.astype(np.float64), np.empty(0, np.int64)
        with warnings.catch_warnings():
            # The codes that it leaves unfinished all the same are its own affair.
            warnings.simplefilter("ignore")
            for _ in range(self.num_steps):
                order = order if order.size else rng.permutation(len(signals))
                estimator.partial_fit(signals[order[: self.batch_size]])
                order = order[self.batch_size :]
        return estimator
