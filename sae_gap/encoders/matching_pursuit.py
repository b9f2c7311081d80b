"""The matching-pursuit encoder: greedy and differentiable, with the dictionary as its only
parameters.
"""

import functools

import jax
import jax.numpy as jnp

from sae_gap.core import option
from sae_gap.encoders import AmortisedEncoder, Recipe, unit_atoms
from sae_gap.solvers import matching_pursuit


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
    label = "matching pursuit"
    colour = "#AA4499"
    rank = 4
    recipe = Recipe("MP SAE", "#CC79A7", rate=5e-3)
    reads_inputs = False

    k: int = option(default=10)
    nonneg: bool = option(default=False)

    @property
    def signed(self):
        return not self.nonneg

    def parameters(self, weight, key):
        return None

    def flops(self, input_dim, num_latents):
        return self.k * 2 * input_dim * num_latents

    def __call__(self, model, signals):
        """Returns the codes of a matching pursuit on unit atoms, in units of the model's atoms."""
        atoms, norms = unit_atoms(model.decoder)
        support, values = matching_pursuit(
            signals - model.bias, atoms.T, self.k, nonneg=self.nonneg
        )
        rows = jnp.arange(len(signals))
        codes = jnp.zeros((len(signals), len(norms)), signals.dtype)
        return codes.at[rows, support].set(values, unique_indices=True) / norms

    def loss(self, model, signals, penalty):
        """Returns the squared error alone; its derivative holds the chosen atoms fixed."""
        atoms, _ = unit_atoms(model.decoder)
        reconstruction = signals - _residual(signals - model.bias, atoms.T, self.k, self.nonneg)
        return jnp.mean((reconstruction - signals) ** 2, axis=1), None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _residual(signals, atoms, k, nonneg):
    """Returns a pursuit's residual, differentiable with the chosen atoms held fixed."""
    return _residual_forward(signals, atoms, k, nonneg)[0]


def _residual_forward(signals, atoms, k, nonneg):
    support, values = matching_pursuit(signals, atoms, k, nonneg=nonneg)
    chosen = atoms[support]
    residual = signals - jnp.einsum("kn,knm->nm", values, chosen)
    return residual, (support, values, chosen, residual, len(atoms))


def _residual_backward(k, nonneg, saved, residual_bar):
    support, values, chosen, residual, num_latents = saved

    def step(state, step_inputs):
        # r' = r - (r·a) a, run backwards: r is rebuilt from r', then differentiated.
        residual, bar = state
        atom, value = step_inputs
        residual = residual + value[:, None] * atom
        projected = jnp.sum(atom * bar, axis=1, keepdims=True)
        if nonneg:
            # A clipped code subtracts nothing.
            projected = jnp.where(value[:, None] > 0, projected, 0)
        atom_bar = -(value[:, None] * bar + projected * residual)
        return (residual, bar - projected * atom), atom_bar

    (_, signals_bar), atom_bars = jax.lax.scan(
        step, (residual, residual_bar), (chosen, values), reverse=True
    )
    return signals_bar, jnp.zeros((num_latents, residual.shape[1]), residual.dtype).at[support].add(
        atom_bars
    )


_residual.defvjp(_residual_forward, _residual_backward)
