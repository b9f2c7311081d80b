"""The matching-pursuit encoder: greedy, with the dictionary as its only parameters, and differentiable in it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sae_gap.encoders.base import AmortisedEncoder, unit_atoms


class MatchingPursuit(AmortisedEncoder):
    """k greedy steps: the unused atom of largest |correlation| with the residual, its projection as the code, a new residual.

    The pursuit runs on unit atoms; its codes are rescaled to the model's own, so that `codes @ dictionary.T + bias` is what the
    pursuit reconstructs.

    References:
      Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries".
      Costa et al. (2025), "From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit".
    """

    k: int = eqx.field(static=True, default=10)

    def parameters(self, weight):
        return None

    def __call__(self, model, signals):
        atoms, norms = unit_atoms(model.decoder)
        support, values, _ = _pursue(signals - model.bias, atoms.T, self.k)
        rows = jnp.arange(len(signals))[:, None]
        codes = jnp.zeros((len(signals), len(norms)), signals.dtype).at[rows, support].set(values, unique_indices=True)
        return codes / norms

    def reconstruct(self, model, signals):
        atoms, _ = unit_atoms(model.decoder)
        return signals - _residual(signals - model.bias, atoms.T, self.k), jnp.zeros(len(signals), signals.dtype)


def _pursue(
    signals: Float[Array, "n input_dim"], atoms: Float[Array, "num_latents input_dim"], k: int
) -> tuple[Int[Array, "n k"], Float[Array, "n k"], Float[Array, "n input_dim"]]:
    """The chosen atoms in order, their projections, and the last residual."""
    num_latents = len(atoms)
    latent = jnp.arange(num_latents)
    # Carrying the correlations through the Gram matrix saves a product a step, where that pays for the matrix.
    gram = atoms @ atoms.T if num_latents <= len(signals) * k and num_latents <= 4_096 else None

    def step(state, _):
        residual, correlation, unused = state
        if gram is None:
            correlation = residual @ atoms.T
        score = jnp.where(unused, jnp.abs(correlation), -1)
        # A max and a compare run in vector registers where XLA's argmax on a CPU does not.
        best = jnp.max(score, axis=1, keepdims=True)
        chosen = jnp.min(jnp.where(score == best, latent, num_latents - 1), axis=1)
        value = jnp.take_along_axis(correlation, chosen[:, None], axis=1)
        residual = residual - value * atoms[chosen]
        if gram is not None:
            correlation = correlation - value * gram[chosen]
        return (residual, correlation, unused & (latent != chosen[:, None])), (chosen, value[:, 0])

    start = (signals, signals @ atoms.T, jnp.ones((len(signals), num_latents), bool))
    (residual, _, _), (support, values) = jax.lax.scan(step, start, length=min(k, num_latents))
    return support.T, values.T, residual


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _residual(signals, atoms, k):
    """What a pursuit leaves, differentiable with the chosen atoms held fixed."""
    return _pursue(signals, atoms, k)[2]


def _residual_forward(signals, atoms, k):
    support, values, residual = _pursue(signals, atoms, k)
    return residual, (support, values, residual, atoms)


def _residual_backward(k, saved, residual_bar):
    support, values, residual, atoms = saved

    def step(state, step_inputs):
        # r' = r - (r·a) a, run backwards: r is rebuilt from r', then differentiated.
        residual, bar = state
        chosen, value = step_inputs
        atom = atoms[chosen]
        residual = residual + value[:, None] * atom
        projected = jnp.sum(atom * bar, axis=1, keepdims=True)
        atom_bar = -(value[:, None] * bar + projected * residual)
        return (residual, bar - projected * atom), atom_bar

    (_, signals_bar), atom_bars = jax.lax.scan(step, (residual, residual_bar), (support.T, values.T), reverse=True)
    atoms_bar = jnp.zeros_like(atoms).at[support.T.reshape(-1)].add(atom_bars.reshape(-1, atoms.shape[1]))
    return signals_bar, atoms_bar


_residual.defvjp(_residual_forward, _residual_backward)
