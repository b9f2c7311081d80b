"""The matching-pursuit encoder: greedy, with the dictionary as its only parameters, and differentiable in it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sae_gap.core.checks import check_size
from sae_gap.encoders.encoder import AmortisedEncoder, Recipe, unit_atoms


class MatchingPursuit(AmortisedEncoder):
    """k greedy steps: the unused atom of largest |correlation| with the residual, its projection as the code, a new residual.

    The pursuit runs on unit atoms; its codes are rescaled to the model's own, so that `codes @ dictionary.T + bias` is what the
    pursuit reconstructs.

    References:
      Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries".
      Costa et al. (2025), "From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit".
    """

    name = "mp"
    label = "matching pursuit"
    colour = "#AA4499"
    rank = 4
    recipe = Recipe("MP SAE", "#CC79A7", rate=5e-3)

    k: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        check_size("k", self.k)

    @property
    def signed(self):
        return True

    def parameters(self, weight, key):
        return None

    def __call__(self, model, signals):
        atoms, norms = unit_atoms(model.decoder)
        support, values = _pursue(signals - model.bias, atoms.T, self.k)
        rows = jnp.arange(len(signals))
        codes = jnp.zeros((len(signals), len(norms)), signals.dtype).at[rows, support].set(values, unique_indices=True)
        return codes / norms

    def reconstruct(self, model, signals):
        atoms, _ = unit_atoms(model.decoder)
        return signals - _residual(signals - model.bias, atoms.T, self.k), jnp.zeros(len(signals), signals.dtype)


def _pursue(
    signals: Float[Array, "n input_dim"], atoms: Float[Array, "num_latents input_dim"], k: int
) -> tuple[Int[Array, "k n"], Float[Array, "k n"]]:
    """The chosen atoms in order, and their projections."""
    num_latents = len(atoms)
    latent = jnp.arange(num_latents)
    # Carrying the correlations through the Gram matrix saves a product a step, where that pays for the matrix.
    gram = atoms @ atoms.T if num_latents <= len(signals) * k and num_latents <= 4_096 else None

    def step(state, _):
        carried, unused = state
        correlation = carried if gram is not None else carried @ atoms.T
        score = jnp.where(unused, jnp.abs(correlation), -1)
        # A max and a compare run in vector registers where XLA's argmax on a CPU does not.
        best = jnp.max(score, axis=1, keepdims=True)
        chosen = jnp.min(jnp.where(score == best, latent, num_latents - 1), axis=1)
        value = jnp.take_along_axis(correlation, chosen[:, None], axis=1)
        carried = carried - value * (atoms if gram is None else gram)[chosen]
        return (carried, unused & (latent != chosen[:, None])), (chosen, value[:, 0])

    carried = signals if gram is None else signals @ atoms.T
    unused = jnp.ones((len(signals), num_latents), bool)
    return jax.lax.scan(step, (carried, unused), length=min(k, num_latents))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _residual(signals, atoms, k):
    """What a pursuit leaves, differentiable with the chosen atoms held fixed."""
    return _residual_forward(signals, atoms, k)[0]


def _residual_forward(signals, atoms, k):
    support, values = _pursue(signals, atoms, k)
    chosen = atoms[support]
    residual = signals - jnp.einsum("kn,knm->nm", values, chosen)
    return residual, (support, values, chosen, residual, len(atoms))


def _residual_backward(k, saved, residual_bar):
    support, values, chosen, residual, num_latents = saved

    def step(state, step_inputs):
        # r' = r - (r·a) a, run backwards: r is rebuilt from r', then differentiated.
        residual, bar = state
        atom, value = step_inputs
        residual = residual + value[:, None] * atom
        projected = jnp.sum(atom * bar, axis=1, keepdims=True)
        atom_bar = -(value[:, None] * bar + projected * residual)
        return (residual, bar - projected * atom), atom_bar

    (_, signals_bar), atom_bars = jax.lax.scan(step, (residual, residual_bar), (chosen, values), reverse=True)
    return signals_bar, jnp.zeros((num_latents, residual.shape[1]), residual.dtype).at[support].add(atom_bars)


_residual.defvjp(_residual_forward, _residual_backward)
