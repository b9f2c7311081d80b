"""Takes parents out of children that are used in their place."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from sae_gap.encoders import unit_atoms
from sae_gap.learners import Atoms, Cooccurrence, alike_pairs, coherent_cosine, nearest

# A ray contains another if its projection onto that is longer than this share of it.
CONTAINS = 0.75
# An atom is only parted from one with more than this share of its energy.
_LEAST_ENERGY = 0.3
# An atom has its parent's concept if less than this length of it remains without the parent.
_LEAST_PARTED = 0.5


def part_from_parents(
    atoms: Atoms, counts: Cooccurrence
) -> tuple[Atoms, Bool[Array, " num_latents"]]:
    """Takes a parent out of a child that is used in its place: `p + c` is an atom, and so is p,
    which is off when the other is on.

    Such atoms are coherent and apart. The parent's ray, its atom at the length of its mean code, is
    shorter than the child's, which contains it. Among several parents the one with the longest ray
    counts. An atom with hardly any remainder has the parent's concept: it stays, and is free for
    another concept.

    Returns:
      The atoms, and a mask of the free ones.
    """
    dictionary = atoms.dictionary
    size, energy = counts.size, counts.squares
    others = nearest(dictionary)
    lies, cosines = alike_pairs(atoms, counts, others, coherent_cosine(dictionary))
    lies &= (
        (size[others] < size[:, None])
        & (cosines * size[:, None] > CONTAINS * size[others])
        & (energy[others] > _LEAST_ENERGY * energy[:, None])
    )
    # A parent does not move itself.
    lies &= ~jnp.any(lies, axis=1)[others]
    longest = jnp.argmax(jnp.where(lies, size[others], -1), axis=1)
    parent = dictionary[:, jnp.take_along_axis(others, longest[:, None], axis=1)[:, 0]]
    rest = dictionary - jnp.sum(dictionary * parent, axis=0) * parent
    parts, twice = jnp.any(lies, axis=1), jnp.linalg.norm(rest, axis=0) < _LEAST_PARTED
    places = jnp.where(parts & ~twice, jnp.arange(len(size)), len(size))
    return atoms.put(places, unit_atoms(rest)[0]), parts & twice
