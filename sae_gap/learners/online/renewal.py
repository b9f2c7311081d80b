"""Restarts wasted atoms from the samples that the dictionary explains worst."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sae_gap.encoders import unit_atoms

# Above this cosine two atoms are duplicates, and above this one two seeds belong to one concept.
DUPLICATE, ALIKE = 0.7, 0.5
# At most one atom in so many restarts at once.
ONE_IN = 20
# Columns of the atoms' Gram matrix that are formed at once.
GRAM_COLUMNS = 256


class Seeds(NamedTuple):
    """The largest residuals so far, in falling order, with their squared lengths; -1 marks a free
    place.
    """

    squares: Float[Array, " some"]
    residuals: Float[Array, "some input_dim"]


def most_restarts(num_latents: int, num_samples: int) -> int:
    """Returns the most atoms that restart at once: each needs a sample to start from."""
    return min(max(1, num_latents // ONE_IN), num_samples)


def empty_seeds(most: int, like: Float[Array, "... input_dim"]) -> Seeds:
    """Makes room for `most` seeds."""
    return Seeds(jnp.full(most, -1, like.dtype), jnp.zeros((most, like.shape[-1]), like.dtype))


def collect(seeds: Seeds, residuals: Float[Array, "n input_dim"]) -> Seeds:
    """Returns the largest of the seeds and some residuals, as many as there is room for."""
    squares = jnp.concatenate([seeds.squares, jnp.sum(residuals**2, axis=1)])
    squares, chosen = lax.top_k(squares, len(seeds.squares))
    return Seeds(squares, jnp.concatenate([seeds.residuals, residuals])[chosen])


def merge(seeds: Seeds, most: int, axes: tuple[str, ...]) -> Seeds:
    """Returns, on all devices, the largest seeds that the devices along some mesh axes have
    collected.
    """
    own = len(seeds.squares)
    squares, chosen = lax.top_k(lax.all_gather(seeds.squares, axes, tiled=True), most)
    mine = chosen // own == lax.axis_index(axes)
    return Seeds(
        squares, lax.psum(jnp.where(mine[:, None], seeds.residuals[chosen % own], 0), axes)
    )


def restart_wasted_atoms(
    dictionary: Float[Array, "input_dim num_latents"],
    energy: Float[Array, " num_latents"],
    uses: Float[Array, " num_latents"],
    seeds: Seeds,
    *,
    weak: float,
    axes: tuple[str, ...] = (),
) -> tuple[Float[Array, "input_dim num_latents"], Bool[Array, " num_latents"]]:
    """Restarts atoms that duplicate others, then those with only weak codes.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      energy: each atom's squared codes, summed over a round.
      uses: the number of non-zero codes among them.
      seeds: where atoms restart from; at most as many restart.
      weak: codes are weak if their mean square is at most this share of that of all non-zero codes;
        an unused atom's always are.
      axes: mesh axes that the search for duplicates is split over; each device does the rest for
        itself.

    Returns:
      The dictionary, and a mask of the new atoms.
    """
    duplicate = _duplicates(dictionary, energy, axes)
    small = energy * jnp.sum(uses) <= weak * jnp.sum(energy) * uses
    return restart(dictionary, jnp.where(duplicate, -1, jnp.where(small, energy, jnp.inf)), seeds)


def restart(
    dictionary: Float[Array, "input_dim num_latents"],
    worth: Float[Array, " num_latents"],
    seeds: Seeds,
    *,
    must_gain: bool = False,
) -> tuple[Float[Array, "input_dim num_latents"], Bool[Array, " num_latents"]]:
    """Restarts the atoms of least worth from the largest seeds that differ.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      worth: the worth of each atom; infinite worth keeps an atom.
      seeds: where atoms restart from; at most as many restart.
      must_gain: whether an atom only restarts if its worth is below the square of its seed.

    Returns:
      The dictionary, and a mask of the new atoms.
    """
    num_latents = dictionary.shape[1]
    worst, places = lax.top_k(-worth, len(seeds.squares))
    atoms = unit_atoms(seeds.residuals.T)[0]
    alike = jnp.any(jnp.tril(atoms.T @ atoms > ALIKE, -1), axis=1) | (seeds.squares <= 0)
    # Usable seeds come first, and each goes to one of the worst atoms.
    order = jnp.argsort(alike, stable=True)
    starts = (worst > -jnp.inf) & ~alike[order]
    if must_gain:
        starts &= -worst < seeds.squares[order]
    # JAX drops assignments to num_latents, which is no atom.
    target = jnp.where(starts, places, num_latents)
    new = jnp.zeros(num_latents, bool).at[target].set(True, mode="drop")
    return dictionary.at[:, target].set(atoms[:, order], mode="drop"), new


def _duplicates(dictionary, energy, axes: tuple[str, ...]) -> Bool[Array, " num_latents"]:
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
    found = lax.map(has_stronger, jnp.minimum(own, num_latents - 1), batch_size=GRAM_COLUMNS)
    return lax.psum(jnp.zeros(num_latents, jnp.int32).at[own].set(found, mode="drop"), axes) > 0
