"""Finds active latents where a dictionary lacks features: hard thresholding from the lasso."""

import equinox as eqx
import jax.numpy as jnp

from sae_gap.core import Coded, option, product
from sae_gap.encoders import Inferring, Lasso, keep_nans, unit_atoms
from sae_gap.solvers.least_squares import least_squares


class ThresholdingPursuit(Inferring):
    r"""Hard thresholding pursuit from the certified lasso, with a threshold for each sample.

    A lasso explains features that the dictionary lacks by many small codes. Each round keeps a
    latent only if the residual without it would correlate with its atom beyond τ, and refits:

        r = y - b - D z,    S = {j : d_jᵀ r + z_j > τ},
        τ = max(λ, √(2 log N) ‖r‖ / √d),    z = least squares on S,

    with N unit atoms in d dimensions. For a latent that is off, `d_jᵀ r + z_j` is about normal with
    deviation `‖r‖ / √d` if all directions of r are equally likely; √(2 log N) deviations are the
    universal threshold, which few of N such numbers exceed. The first round keeps the lasso's codes
    above τ - λ, since their atoms correlate with its residual by λ. Samples do not influence each
    other, nothing is trained, and the codes scale with the signals and λ.

    Args:
      lam: λ of the lasso, and the least threshold.
      rounds: how often it thresholds and refits, at least once.

    Raises:
      ValueError: λ is negative, or there are no rounds.

    References:
      Foucart (2011), "Hard thresholding pursuit: an algorithm for compressive sensing", SIAM J.
      Numer. Anal. 49(6). Donoho & Johnstone (1994), "Ideal spatial adaptation by wavelet
      shrinkage", Biometrika 81(3), for τ.
    """

    name = "thresholding_pursuit"
    label = "lasso, hard thresholding"
    colour = "#DDCC77"
    rank = 14

    lam: float = option(default=0.1, least=0)
    rounds: int = option(default=2)

    @property
    def origin(self):
        return Lasso(self.lam)

    def infer(self, model, signals, begun=None):
        """Returns the codes in units of the model's atoms, without a certificate."""
        begun = self.origin.infer(model, signals).codes if begun is None else begun
        least = jnp.asarray(self.lam)
        return Coded(_pursue(model, signals, begun, least, self.rounds))


@eqx.filter_jit
def _pursue(model, signals, codes, lam, rounds):
    atoms, norms = unit_atoms(model.decoder)
    target, codes = signals - model.bias, codes * norms
    # Padding adds dimensions in which all atoms are zero.
    dims = jnp.maximum(1, jnp.sum(jnp.any(atoms != 0, axis=1)))
    share = jnp.sqrt(2 * jnp.log(atoms.shape[1]) / dims)
    for _ in range(rounds):
        rest = target - product(codes, atoms.T)
        least = jnp.maximum(lam, share * jnp.linalg.norm(rest, axis=1, keepdims=True))
        on = product(rest, atoms) + codes > least
        codes = least_squares(target, atoms, on).clip(0)
    return keep_nans(target, codes / norms)
