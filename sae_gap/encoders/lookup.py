"""Codes that were learned together with the dictionary, for the very signals of that fit."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core import option
from sae_gap.encoders import Encoder, Lasso


class LookupParameters(eqx.Module):
    """Signals and their codes, in units of the model's atoms."""

    signals: Float[Array, "known input_dim"]
    codes: Float[Array, "known num_latents"]


class Lookup(Encoder):
    """Returns the codes that a learner found for its signals, in any order; other signals get the
    lasso's.

    A learner that minimises `mean (Y - Z Dᵀ)² + λ mean (z_ij ‖d_j‖)` over codes, and stores them in
    `Model.encoder`, minimises `½‖y - D z‖² + w ‖z‖₁` on unit atoms, with
    `w = λ input_dim / (2 num_latents)`. Other signals are coded at that weight.

    Args:
      lam: λ of the learner.
    """

    lam: float = option(default=0.1, least=0)

    def __call__(self, model, signals):
        known: LookupParameters = model.encoder

        def find(row):
            same = jnp.all(known.signals == row, axis=1)
            return known.codes[jnp.argmax(same)], jnp.any(same, keepdims=True)

        codes, found = jax.lax.map(find, signals)
        input_dim = jnp.sum(jnp.any(known.signals != 0, axis=0))

        def rest():
            lasso = Lasso(self.lam * input_dim / (2 * model.decoder.shape[1]))
            return jnp.where(found, codes, lasso(model, signals))

        return jax.lax.cond(jnp.all(found), lambda: codes, rest)
