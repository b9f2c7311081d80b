"""The linear probe: supervised ridge regression from signals to codes."""

import jax.numpy as jnp
import numpy as np
from scipy.sparse import issparse

from sae_gap.core import Model, Task, active_columns, option, product
from sae_gap.encoders import Affine
from sae_gap.learners import Learner


class LinearProbe(Learner):
    """`W = (YᵀY + αI)⁻¹ YᵀZ` without an intercept; leave-one-out error chooses one α for all
    latents.

    With the thin SVD `Y = U S Vᵀ`, the ridge fit is `U diag(s²/(s² + α)) UᵀZ`, and sample i's
    leave-one-out residual is its residual over `1 - Σ_j U_ij² s_j²/(s_j² + α)`. In float32 the
    weights are exact to the roundoff times the ratio of the largest to the smallest singular value.

    Args:
      alphas: the ridge penalties to choose from.

    References:
      Golub, Heath & Wahba (1979), "Generalized cross-validation as a method for choosing a good
      ridge parameter".
    """

    name = "linear_probe"
    label = "linear probe"
    colour = "#7F7F7F"
    family = "probe"

    alphas: tuple[float, ...] = option(default=(1e-6, 1e-4, 1e-2, 1.0, 10.0), above=0)

    def needs(self, task: Task) -> str | None:
        return "the true codes of the training split" if task.train.codes is None else None

    def select(self, task):
        """Returns the signals, their codes and, of sparse ones, the active column of each latent,
        which is beyond the last if the latent is never on.
        """
        signals, codes = task.train.signals, task.train.codes
        if not issparse(codes):
            return signals, codes, None
        active, latents = active_columns(codes)
        places = np.full(codes.shape[1], len(latents))
        places[latents] = np.arange(len(latents))
        return signals, active, places

    def init(self, data, *, num_latents, key):
        signals, codes, places = data
        left, singular, right = jnp.linalg.svd(signals, full_matrices=False)
        projected = product(left.T, codes)
        # The part that no signal can explain stays apart from the part that the penalty shrinks:
        # one minus the explained part would cancel if a small penalty leaves almost nothing.
        square = left.shape[0] == left.shape[1]
        outside = 0.0 if square else codes - product(left, projected)
        slack = 0.0 if square else 1 - jnp.sum(left**2, axis=1, keepdims=True)

        def leave_one_out(alpha):
            shrunk = alpha / (singular**2 + alpha)
            residual = outside + product(left * shrunk, projected)
            left_out = slack + jnp.sum(left**2 * shrunk, axis=1, keepdims=True)
            return jnp.mean((residual / left_out) ** 2)

        alphas = jnp.asarray(self.alphas, signals.dtype)
        alpha = alphas[jnp.nanargmin(jnp.stack([leave_one_out(alpha) for alpha in alphas]))]
        weights = product(right.T * (singular / (singular**2 + alpha)), projected)
        # A latent that is never on in training gets no weights, and did not influence the choice of
        # α.
        return weights if places is None else jnp.pad(weights, ((0, 0), (0, 1)))[:, places]

    def model(self, state):
        return Model(None, jnp.zeros(state.shape[0], state.dtype), Affine.create(state))
