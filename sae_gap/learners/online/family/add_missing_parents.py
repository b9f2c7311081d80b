"""Gives an atom to a parent that has none."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap.learners import (
    BATCH,
    LEAST_REST,
    Atoms,
    Cooccurrence,
    alike_pairs,
    coherent_cosine,
    common_factor,
    idle_atoms,
    members_of,
    nearest,
    unit_columns,
)

# Atoms are a family if their mean loading on the common factor exceeds this; the loading of p + c
# is .71 if p and c have the same length.
LOADED = 0.6
# An atom is the common factor if its cosine with it exceeds this.
SAME = 0.9


def add_missing_parents(
    atoms: Atoms, counts: Cooccurrence, idle: Float[Array, " num_latents"]
) -> Atoms:
    """Gives an atom to a parent that has none: p is never on without a child, and the atom of each
    child is `p + c_k`.

    Such atoms are coherent and apart. Each atom follows the most central one, with the largest sum
    of coherences, among itself and the atoms that it is coherent with. The followers of an atom
    that follows itself are a family if their mean loading on their common factor p is large; it is
    small if each is coherent with one atom, but not with the others. The factor goes to the atom
    that is p already, or else to an idle one, and the members keep their remainders.
    """
    dictionary, moved = atoms
    num_latents = dictionary.shape[1]
    names, others = jnp.arange(num_latents), nearest(dictionary)
    alike, cosines = alike_pairs(atoms, counts, others, coherent_cosine(dictionary))
    central = jnp.sum(jnp.where(alike, cosines, 0), axis=1)
    beside = jnp.where(alike, central[others], -1)
    most = jnp.maximum(jnp.max(beside, axis=1), central)
    # The first of the most central atoms.
    leader = jnp.min(jnp.where(beside == most[:, None], others, num_latents), axis=1)
    leader = jnp.where(central == most, jnp.minimum(names, leader), leader)
    leader = jnp.where(leader[leader] == leader, leader, num_latents)
    members = members_of(leader)

    def find(members):
        exists, own = members < num_latents, jnp.minimum(members, num_latents - 1)
        rays = dictionary[:, own]
        common, rest, length, loading = common_factor(rays, rays.T @ rays, exists)
        # Fewer than three members have no triples, and so the least loadings.
        loaded = jnp.sum(jnp.where(exists, loading, 0)) > LOADED * jnp.sum(exists)
        close = jnp.where(moved, -1, common @ dictionary)
        near = jnp.argmax(close)
        return loaded, common, rest, length, near, loaded & (close[near] > SAME)

    wanted, common, rest, length, near, has = lax.map(find, members, batch_size=BATCH)
    in_family = jnp.append(wanted, False)[leader]
    # An atom is the parent of one family, and only of its own if it is in one.
    near = _first_claims(
        jnp.where(has & ((leader[near] == names) | ~in_family[near]), near, num_latents)
    )
    claimed = jnp.zeros(num_latents, bool).at[near].set(True, mode="drop")
    spare = idle_atoms(wanted & ~has, jnp.where(moved | claimed | in_family, jnp.inf, idle))
    at_parent = jnp.where(has, near, spare)
    at_member = jnp.where(
        (at_parent < num_latents)[:, None] & (length > LEAST_REST), members, num_latents
    )
    # Put the parent last, since it may be a member.
    return atoms.put(at_member, unit_columns(rest)).put(at_parent, common.T)


def _first_claims(places: Int[Array, " num_latents"]) -> Int[Array, " num_latents"]:
    """Returns the places, with num_latents for those that an earlier entry claims too."""
    names = jnp.arange(len(places))
    first = jnp.full(len(places) + 1, len(places)).at[places].min(names)
    return jnp.where(first[places] == names, places, len(places))
