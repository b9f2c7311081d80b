"""Atoms that start anew: which ones are wasted, and the samples that they start from."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sae_gap.encoders.encoder import unit_atoms

# Atoms as alike as this are one atom found twice; seeds less alike than this are of different ones.
DUPLICATE, ALIKE = 0.7, 0.5
# Columns of the atoms' Gram matrix that are formed at once.
GRAM_COLUMNS = 256


class Seeds(NamedTuple):
    """The largest residuals seen, in falling order: their squared lengths, -1 where there is none yet, and themselves."""

    squares: Float[Array, " some"]
    residuals: Float[Array, "some input_dim"]


def no_seeds(most: int, like: Float[Array, "... input_dim"]) -> Seeds:
    """Room for as many seeds as `most`."""
    return Seeds(jnp.full(most, -1, like.dtype), jnp.zeros((most, like.shape[-1]), like.dtype))


def collect(seeds: Seeds, residuals: Float[Array, "n input_dim"]) -> Seeds:
    """The largest of the seeds and of some residuals, as many as there is room for."""
    squares = jnp.concatenate([seeds.squares, jnp.sum(residuals**2, axis=1)])
    squares, chosen = lax.top_k(squares, len(seeds.squares))
    return Seeds(squares, jnp.concatenate([seeds.residuals, residuals])[chosen])


def merge(seeds: Seeds, most: int, axis: str) -> Seeds:
    """The largest of the seeds that the devices along an axis of the mesh have each collected, for all of them."""
    own = len(seeds.squares)
    squares, chosen = lax.top_k(lax.all_gather(seeds.squares, axis, tiled=True), most)
    mine = chosen // own == lax.axis_index(axis)
    return Seeds(squares, lax.psum(jnp.where(mine[:, None], seeds.residuals[chosen % own], 0), axis))


def renew(
    dictionary: Float[Array, "input_dim num_latents"],
    energy: Float[Array, " num_latents"],
    uses: Float[Array, " num_latents"],
    seeds: Seeds,
    *,
    weak: float,
    nonneg: bool,
    axis: str | None = None,
) -> tuple[Float[Array, "input_dim num_latents"], Bool[Array, " num_latents"]]:
    """Starts atoms that duplicate others or have only weak codes anew, from the seeds that differ.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      energy: each atom's squared codes, summed over a round.
      uses: how many of these were not zero.
      seeds: at most so many atoms start anew.
      weak: the most that the mean square of an atom's codes that are not zero may be, as a share of that of all such codes,
        where the codes count as weak; an atom that is never used has weak codes at any value.
      nonneg: whether codes are non-negative; to signed ones opposite atoms are the same.
      axis: of the mesh, over which the search for duplicates is split; the rest each device does for itself.

    Returns:
      The dictionary, and which atoms are new.
    """
    likeness = (lambda cosines: cosines) if nonneg else jnp.abs
    duplicate = _duplicates(dictionary, energy, likeness, axis)
    small = energy * jnp.sum(uses) <= weak * jnp.sum(energy) * uses
    return restart(dictionary, jnp.where(duplicate, -1, jnp.where(small, energy, jnp.inf)), seeds, nonneg=nonneg)


def restart(
    dictionary: Float[Array, "input_dim num_latents"],
    worth: Float[Array, " num_latents"],
    seeds: Seeds,
    *,
    nonneg: bool,
    gains: bool = False,
) -> tuple[Float[Array, "input_dim num_latents"], Bool[Array, " num_latents"]]:
    """Starts the atoms of the least worth anew, from the seeds that differ; those of infinite worth stay.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      worth: of each atom; the least of them take the largest seeds.
      seeds: at most so many atoms start anew.
      nonneg: whether codes are non-negative; to signed ones opposite atoms are the same.
      gains: whether an atom stays unless it is worth less than the square of its seed.

    Returns:
      The dictionary, and which atoms are new.
    """
    num_latents = dictionary.shape[1]
    worst, places = lax.top_k(-worth, len(seeds.squares))
    atoms = unit_atoms(seeds.residuals.T)[0]
    likeness = atoms.T @ atoms if nonneg else jnp.abs(atoms.T @ atoms)
    alike = jnp.any(jnp.tril(likeness > ALIKE, -1), axis=1) | (seeds.squares <= 0)
    # The usable seeds first, each for one of the worst atoms.
    order = jnp.argsort(alike, stable=True)
    starts = (worst > -jnp.inf) & ~alike[order]
    if gains:
        starts &= -worst < seeds.squares[order]
    target = jnp.where(starts, places, num_latents)
    new = jnp.zeros(num_latents, bool).at[target].set(True, mode="drop")
    return dictionary.at[:, target].set(atoms[:, order], mode="drop"), new


def _duplicates(dictionary, energy, likeness, axis: str | None) -> Bool[Array, " num_latents"]:
    """Which atoms lie close to one of more energy, or of as much and named before."""
    num_latents = dictionary.shape[1]
    names = jnp.arange(num_latents)

    def has_stronger(name):
        close = likeness(dictionary.T @ dictionary[:, name]) > DUPLICATE
        stronger = (energy > energy[name]) | ((energy == energy[name]) & (names < name))
        return jnp.any(close & stronger)

    if axis is None:
        return lax.map(has_stronger, names, batch_size=GRAM_COLUMNS)
    share = -(-num_latents // lax.axis_size(axis))
    own = share * lax.axis_index(axis) + jnp.arange(share)
    found = lax.map(has_stronger, jnp.minimum(own, num_latents - 1), batch_size=GRAM_COLUMNS)
    return lax.psum(jnp.zeros(num_latents, jnp.int32).at[own].set(found, mode="drop"), axis) > 0


__all__ = ["Seeds", "collect", "merge", "no_seeds", "renew", "restart"]
