"""Codes that were found along with the dictionary, for the very signals that they were found
for.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from sae_gap.core.options import option
from sae_gap.encoders.encoder import Encoder, unit_atoms
from sae_gap.solvers import sparse_code


class LookupParameters(eqx.Module):
    """Signals and their codes, in units of the model's atoms."""

    signals: Float[Array, "known input_dim"]
    codes: Float[Array, "known num_latents"]


class Lookup(Encoder):
    """The codes that a learner found for its signals, in whatever order they come; any other signal
    gets the lasso's.

    A learner that minimises `mean (Y - Z Dᵀ)² + λ mean (z_ij ‖d_j‖)` over codes, which it leaves in
    `Model.encoder`, minimises `½‖y - D z‖² + w ‖z‖₁` on unit atoms, with
    `w = λ input_dim / (2 num_latents)`. At that weight other signals are coded.

    Args:
      lam: λ of the learner.
    """

    lam: float = option(default=0.1, least=0)

    def __call__(self, model, signals):
        known: LookupParameters = model.encoder
        place, found = _find(known.signals, signals)
        num_latents = model.decoder.shape[1]
        input_dim = jnp.sum(jnp.any(known.signals != 0, axis=0))
        codes = known.codes[place]

        def rest():
            atoms, norms = unit_atoms(model.decoder)
            optima = (
                sparse_code(
                    signals - model.bias, atoms, self.lam * input_dim / (2 * num_latents)
                ).codes
                / norms
            )
            return jnp.where(found[:, None], codes, optima)

        return jax.lax.cond(jnp.all(found), lambda: codes, rest)


def _find(
    known: Float[Array, "known input_dim"], signals: Float[Array, "n input_dim"]
) -> tuple[Int[Array, " n"], Array]:
    """For each signal the row of the known ones that has its bits, and whether there is one."""
    digests = _digest(known)
    order = jnp.argsort(digests)
    place = order[jnp.searchsorted(digests[order], _digest(signals)).clip(0, len(order) - 1)]
    # Two signals of one digest are too rare to search on: the second counts as unknown.
    return place, jnp.all(known[place] == signals, axis=1)


def _digest(rows: Float[Array, "n input_dim"]) -> UInt32[Array, " n"]:
    # A zero has two forms that are equal.
    words = jax.lax.bitcast_convert_type(jnp.where(rows == 0, 0, rows), jnp.uint32).reshape(
        len(rows), -1
    )
    factors = (2 * jnp.arange(words.shape[1], dtype=jnp.uint32) + 1) * jnp.uint32(2_654_435_761)
    mixed = words ^ (words >> 15)
    return jnp.sum(mixed * factors, axis=1, dtype=jnp.uint32)
