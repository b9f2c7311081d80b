"""Splits parents that are merged with a child."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sae_gap.encoders import unit_atoms
from sae_gap.learners import (
    BATCH,
    DIFFER,
    LEAST_REST,
    LEAST_USES,
    MEMBERS,
    NEIGHBOURS,
    PARTNERS,
    Atoms,
    Cooccurrence,
    alike_pairs,
    common_factor,
    idle_atoms,
    is_short,
    members_of,
    parents,
    unit_columns,
    with_partner,
)

# Siblings share more than by chance if their cosines, each and on average, exceed this.
SIBLINGS = 0.1
# If a parent is without its children in at most this share of its uses, its own ray says nothing.
ALONE = 0.05
# A parent whose loading on the common factor exceeds this is that factor, and is not split.
PURE = 0.93


def split_merged_parents(
    atoms: Atoms, counts: Cooccurrence, idle: Float[Array, " num_latents"]
) -> Atoms:
    """Splits a parent whose atom is merged with one of its children, `v = p + c_1`.

    Its other children c_k are then learned as `p + c_k` without the part along v. They share
    `p - c_1`, they are apart, and beside them the code of v is smaller than without them, about
    half if p and c_1 have the same length. (If the children share something else, such as a missing
    atom between v and them, the codes of v stay as large.) The rays of the children, `p + c_k`, and
    v itself have the common factor p. The factor becomes the parent, the rays' remainders become
    the children, and c_1 takes an idle atom. If v is hardly ever alone, there is no code to compare
    with, and it is split.

    A lone child c_2 that is on in many uses of v is split from it in the same way, if the codes of
    v are large and an idle atom is free for c_1. The common factor of two rays is their mean,
    `p + (c_1 + c_2) / 2`, and the remainders are opposite. But with three atoms for three concepts,
    signals with varying codes decide the rest: the next rounds that solve find p, c_1 and c_2.
    """
    dictionary = atoms.dictionary
    num_latents = dictionary.shape[1]
    uses, parent, names = counts.uses, parents(counts), jnp.arange(num_latents)
    siblings = members_of(parent, NEIGHBOURS).at[parent].get(mode="fill", fill_value=num_latents)
    alike, _ = alike_pairs(atoms, counts, siblings, SIBLINGS)
    lone = jnp.zeros_like(uses).at[parent].add(1, mode="drop")[parent] == 1
    owner = jnp.where(jnp.any(alike, axis=1) | lone, parent, num_latents)
    children = members_of(owner)

    def over_children(values):
        return jnp.zeros_like(uses).at[owner].add(values, mode="drop")

    both, beside, product = (
        with_partner(counts, values, owner)
        for values in (counts.together, counts.beside, counts.products)
    )
    size, cosine = counts.size, jnp.sum(dictionary * dictionary[:, owner], axis=0)
    times, total = over_children(both), over_children(both * beside)
    alone = 1 - over_children(uses) / jnp.maximum(uses, 1)
    without = (counts.sums - total) / jnp.maximum(uses - times, 1)
    smaller = total / jnp.maximum(times, 1) < (1 - DIFFER) * without
    short = is_short(beside, size[owner], size, cosine)
    # If p and c have the usual size, their sum is larger.
    large = size > jnp.nanmedian(jnp.where(uses >= LEAST_USES, size, jnp.nan))
    # The conditions for a parent to be split from a lone child.
    is_lone = smaller & large & (times > PARTNERS * uses)

    def split(v):
        exists, own = children[v] < num_latents, jnp.minimum(children[v], num_latents - 1)
        pairs = exists[:, None] & exists & ~jnp.eye(MEMBERS, dtype=bool)
        some, it = dictionary[:, own], dictionary[:, v, None]
        shared = jnp.sum(jnp.where(pairs, some.T @ some, 0)) / jnp.maximum(jnp.sum(pairs), 1)
        rays = some * counts.squares[own] + it * product[own]
        rays = unit_atoms(jnp.concatenate([rays, it], axis=1))[0]
        exists = jnp.append(exists, alone[v] > ALONE)
        common, rest, length, loading = common_factor(rays, rays.T @ rays, exists)
        many = (jnp.sum(exists) >= 3) & (shared > SIBLINGS) & (smaller[v] | (alone[v] <= ALONE))
        two = (jnp.sum(exists[:-1]) == 1) & exists[-1] & is_lone[v] & ~short[own[0]]
        return (many | two) & (loading[-1] <= PURE), two, common, rest, length

    wanted, two, common, rest, length = lax.map(split, names, batch_size=BATCH)
    # An atom is not split together with its own parent.
    wanted &= ~jnp.append(wanted, False)[parent]
    # The child that the parent was merged with takes an idle atom.
    lost = wanted & (alone > ALONE) & (length[:, -1] > LEAST_REST)
    taken = wanted | jnp.append(wanted, False)[owner]
    spare = idle_atoms(lost, jnp.where(taken, jnp.inf, idle))
    wanted &= ~two | (spare < num_latents)
    at_child = jnp.where(wanted[:, None] & (length[:, :-1] > LEAST_REST), children, num_latents)
    atoms = atoms.put(at_child, unit_columns(rest[:, :, :-1]))
    atoms = atoms.put(jnp.where(wanted, names, num_latents), common.T)
    return atoms.put(spare, unit_columns(rest[:, :, -1:]))
