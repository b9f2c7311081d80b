"""The linear probe: supervised ridge regression from signals to codes."""

import jax.numpy as jnp

from sae_gap.encoders.base import Affine
from sae_gap.lasso import product
from sae_gap.learners.base import Learner
from sae_gap.types import Model, Task


class LinearProbe(Learner):
    """`W = (YᵀY + αI)⁻¹ YᵀZ` with no intercept, α chosen once for all latents by leave-one-out error.

    With the thin SVD `Y = U S Vᵀ`, the ridge fit is `U diag(s²/(s² + α)) UᵀZ`, and sample i's leave-one-out residual is its
    residual over `1 - Σ_j U_ij² s_j²/(s_j² + α)`.

    Args:
      alphas: the ridge penalties to choose from.

    References:
      Golub, Heath & Wahba (1979), "Generalized cross-validation as a method for choosing a good ridge parameter".
    """

    alphas: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1.0, 10.0)

    def needs(self, task: Task) -> str | None:
        return "the true codes of the training split" if task.train.codes is None else None

    def select(self, task):
        return task.train

    def init(self, data, *, num_latents, key):
        left, singular, right = jnp.linalg.svd(data.signals, full_matrices=False)
        projected = product(left.T, data.codes)

        def leave_one_out(alpha):
            shrinkage = singular**2 / (singular**2 + alpha)
            residual = data.codes - product(left * shrinkage, projected)
            leverage = jnp.sum(left**2 * shrinkage, axis=1, keepdims=True)
            return jnp.mean((residual / (1 - leverage)) ** 2)

        alphas = jnp.asarray(self.alphas, data.signals.dtype)
        errors = jnp.stack([leave_one_out(alpha) for alpha in alphas])
        alpha = alphas[jnp.nanargmin(errors)]
        return product(right.T * (singular / (singular**2 + alpha)), projected)

    def model(self, state):
        return Model(None, jnp.zeros(state.shape[0], state.dtype), Affine.create(state))
