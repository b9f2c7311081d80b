"""Restarts wasted atoms from the samples that the dictionary explains worst."""

import jax.numpy as jnp
from jax import lax
from jax.numpy import where

from sae_gap.encoders import unit_atoms

# Above this cosine two atoms are duplicates, and above this one two seeds belong to one concept.
DUPLICATE = 0.7
ALIKE = 0.5
# At most one atom in so many restarts at once.
ONE_IN = 20
# Columns of the atoms' Gram matrix that are formed at once.
GRAM_COLUMNS = 256


def most_restarts(num_latents, num_samples):
    """Returns the most atoms that restart at once: each needs a sample to start from."""
    return min(max(1, num_latents // ONE_IN), num_samples)


def largest(rows, most):
    """Returns the longest of some residuals, (n, input_dim), in falling order; atoms restart from
    them.
    """
    return rows[lax.top_k(jnp.sum(rows**2, axis=1), most)[1]]


def restart_wasted_atoms(dictionary, energy, uses, seeds, *, weak, axes=()):
    """Restarts atoms that duplicate others, then those with only weak codes.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      energy: (num_latents,), each atom's squared codes, summed over a round.
      uses: (num_latents,), the number of non-zero codes among them.
      seeds: (some, input_dim), `largest` residuals, where atoms restart from; zeros start none.
      weak: codes are weak if their mean square is at most this share of that of all non-zero codes;
        an unused atom's always are.
      axes: mesh axes that the search for duplicates is split over; each device does the rest for
        itself.

    Returns:
      The dictionary, and a mask of the new atoms.
    """
    duplicate = _duplicates(dictionary, energy, axes)
    small = energy * jnp.sum(uses) <= weak * jnp.sum(energy) * uses
    return restart(
        dictionary, where(duplicate, -1, where(small, energy, jnp.inf)), seeds
    )


def restart(dictionary, worth, seeds, *, must_gain=False):
    """Restarts the atoms of least worth from the largest seeds that differ.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      worth: (num_latents,), the worth of each atom; infinite worth keeps an atom.
      seeds: (some, input_dim), `largest` residuals, where atoms restart from; zeros start none.
      must_gain: whether an atom only restarts if its worth is below the square of its seed.

    Returns:
      The dictionary, and a mask of the new atoms.
    """
    num_latents = dictionary.shape[1]
    squares = jnp.sum(seeds**2, axis=1)
    worst, places = lax.top_k(-worth, len(seeds))
    atoms = unit_atoms(seeds.T)[0]
    alike = jnp.any(jnp.tril(atoms.T @ atoms > ALIKE, -1), axis=1) | (squares <= 0)
    # Usable seeds come first, and each goes to one of the worst atoms.
    order = jnp.argsort(alike, stable=True)
    starts = (worst > -jnp.inf) & ~alike[order]
    if must_gain:
        starts &= -worst < squares[order]
    # JAX drops assignments to num_latents, which is no atom.
    target = where(starts, places, num_latents)
    new = jnp.zeros(num_latents, bool).at[target].set(True, mode="drop")
    return dictionary.at[:, target].set(atoms[:, order], mode="drop"), new


def _duplicates(dictionary, energy, axes):
    """Marks atoms close to one of more energy, or of equal energy and a smaller index. Each device
    searches its share.
    """
    num_latents = dictionary.shape[1]
    names = jnp.arange(num_latents)

    def has_stronger(name):
        close = dictionary.T @ dictionary[:, name] > DUPLICATE
        stronger = (energy > energy[name]) | ((energy == energy[name]) & (names < name))
        return jnp.any(close & stronger)

    share = -(-num_latents // lax.axis_size(axes))
    own = share * lax.axis_index(axes) + jnp.arange(share)
    found = lax.map(
        has_stronger, jnp.minimum(own, num_latents - 1), batch_size=GRAM_COLUMNS
    )
    return (
        lax.psum(
            jnp.zeros(num_latents, jnp.int32).at[own].set(found, mode="drop"), axes
        )
        > 0
    )
