"""Greedy pursuits on given atoms, and hard thresholding from the lasso."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from sae_gap.core import Coded, option, product
from sae_gap.encoders import (
    AmortisedEncoder,
    Inferring,
    Lasso,
    Recipe,
    keep_nans,
    on_unit_atoms,
    unit_atoms,
)
from sae_gap.solvers import (
    gradient_pursuit,
    matching_pursuit,
    orthogonal_matching_pursuit,
    spread,
)
from sae_gap.solvers.least_squares import least_squares


class OMP(Inferring):
    """k greedy steps, each with the atom of largest |correlation| and a least-squares fit of all
    atoms chosen so far.

    With `nonneg` each step takes the atom of largest correlation, and codes that end negative are
    set to zero.

    Args:
      k: atoms in each code, at most input_dim.
      nonneg: whether codes are non-negative.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit", Asilomar.
    """

    label = "OMP"
    colour = "#882255"
    rank = 13

    solve = staticmethod(orthogonal_matching_pursuit)

    k: int = option(default=10)
    nonneg: bool = option(default=False)

    def flops(self, input_dim, num_latents):
        """Step i correlates all atoms with the residual, and one atom twice with i earlier ones."""
        return sum(2 * input_dim * (num_latents + 4 * i) for i in range(self.k))

    def infer(self, model, signals, begun=None):
        """Returns the codes, outside of `jit`, so that a CPU takes its own path."""
        target, atoms, norms = on_unit_atoms(model, signals)
        codes = self.solve(target, atoms.T, self.k, nonneg=self.nonneg)
        return Coded(keep_nans(target, codes.clip(0) if self.nonneg else codes) / norms)


class GradientPursuit(OMP):
    """OMP with a step of steepest descent for each least-squares fit: it takes k products with the
    dictionary and solves no equations. Inference-time optimisation codes SAEs this way.

    With `nonneg` codes are clipped at zero after each step.

    Args:
      k: atoms in each code, at most.
      nonneg: whether codes are non-negative.

    References:
      Blumensath & Davies (2008), "Gradient pursuits", IEEE Trans. Signal Processing 56(6).
      Smith (2024), "Replacing SAE encoders with inference-time optimisation".
    """

    name = "gradient_pursuit"
    label = "gradient pursuit"
    colour = "#44AA99"

    solve = staticmethod(gradient_pursuit)

    def flops(self, input_dim, num_latents):
        """Step i correlates all atoms with the residual, and has two products with i atoms."""
        return sum(2 * input_dim * (num_latents + 2 * i) for i in range(1, self.k + 1))


class MatchingPursuit(AmortisedEncoder):
    """k greedy steps. Each takes the unused atom of largest |correlation| with the residual, uses
    its projection as the code, and computes a new residual.

    The pursuit runs on unit atoms; its codes are rescaled to the model's atoms, so that
    `codes @ dictionary.T + bias` is the pursuit's reconstruction.

    Args:
      k: steps.
      nonneg: whether each step takes the atom of largest correlation, with code zero if that is
        negative.

    References:
      Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries".
      Costa et al. (2025), "From Flat to Hierarchical: Extracting Sparse Representations with
      Matching Pursuit".
    """

    name = "mp"
    # 2: the gradient is that of the steps, which rounds otherwise.
    version = 2
    label = "matching pursuit"
    colour = "#AA4499"
    rank = 4
    recipe = Recipe("MP SAE", "#CC79A7", rate=5e-3)
    reads_inputs = False

    k: int = option(default=10)
    nonneg: bool = option(default=False)

    def parameters(self, weight, key):
        """Returns None: the dictionary is all that it has."""

    def flops(self, input_dim, num_latents):
        return self.k * 2 * input_dim * num_latents

    def __call__(self, model, signals):
        """Returns the codes of a matching pursuit on unit atoms, in units of the model's atoms."""
        target, atoms, norms = on_unit_atoms(model, signals)
        found = matching_pursuit(target, atoms.T, self.k, nonneg=self.nonneg)
        return spread(*found, num_latents=len(norms)) / norms

    def loss(self, model, signals, penalty):
        """Returns the squared error alone; its derivative holds the chosen atoms fixed."""
        target, atoms, _ = on_unit_atoms(model, signals)
        given = lax.stop_gradient((target, atoms.T))
        chosen, _ = matching_pursuit(*given, self.k, nonneg=self.nonneg)

        def step(rest, atom):
            value = jnp.sum(rest * atom, axis=1, keepdims=True)
            return rest - value.clip(0 if self.nonneg else None) * atom, None

        return jnp.mean(lax.scan(step, target, atoms.T[chosen.T])[0] ** 2, axis=1), None


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
        return Coded(
            _threshold_and_refit(
                model, signals, begun, jnp.asarray(self.lam), self.rounds
            )
        )


@eqx.filter_jit
def _threshold_and_refit(model, signals, codes, lam, rounds):
    atoms, norms = unit_atoms(model.decoder)
    target = signals - model.bias
    codes = codes * norms
    # Padding adds dimensions in which all atoms are zero.
    dims = jnp.maximum(1, jnp.sum(jnp.any(atoms != 0, axis=1)))
    share = jnp.sqrt(2 * jnp.log(atoms.shape[1]) / dims)
    for _ in range(rounds):
        rest = target - product(codes, atoms.T)
        least = jnp.maximum(lam, share * jnp.linalg.norm(rest, axis=1, keepdims=True))
        on = product(rest, atoms) + codes > least
        codes = least_squares(target, atoms, on).clip(0)
    return keep_nans(target, codes / norms)
