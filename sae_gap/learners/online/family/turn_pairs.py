"""Turns pairs of atoms into a parent and its child."""

import jax.numpy as jnp
from jax import lax

from sae_gap.encoders import unit_atoms
from sae_gap.learners import (
    BATCH,
    LEAST_REST,
    LEAST_USES,
    PARTNERS,
    Atoms,
    Cooccurrence,
    includes,
    least_share,
    mean_code,
)

# If a parent is merged with a child, its mean code beside the others is smaller than without them
# by more than this share. The rays of a child and its parent differ by as much.
DIFFER = 0.15


def turn_pairs(atoms: Atoms, counts: Cooccurrence) -> Atoms:
    """Turns pairs `v = p + c`, which is on wherever p is, and `u = p - c`, its partner, which is on
    beside v when c is off.

    If p and c have the same length, so have the codes of v and u where both are on: reconstruction
    and cosines cannot tell this pair from p and c, and it is as sparse. But the ray of u is p,
    which is shorter than that of v; if v were a parent, its child's ray would be longer. The ray
    becomes u, the base of the pair, and the remainder of v becomes v.
    """
    dictionary, moved = atoms
    num_latents = dictionary.shape[1]
    names, others, uses, size = jnp.arange(num_latents), counts.partners, counts.uses, counts.size
    cosines = lax.map(
        lambda name: dictionary[:, others[name]].T @ dictionary[:, name], names, batch_size=BATCH
    )
    # Each atom as the parent of its partners, and as their child.
    own, its = (uses[:, None], size[:, None]), (counts.of(uses), counts.of(size))
    back = counts.together / jnp.maximum(its[0], 1)
    beside = mean_code(counts.products, counts.together, counts.of(counts.sums), its[0])
    child = includes(counts) & (back > PARTNERS) & (its[0] >= own[0])
    child &= is_short(counts.beside, its[1], own[1], cosines)
    parent = (back > least_share(counts)[:, None]) & (its[0] >= LEAST_USES)
    parent &= own[0] >= its[0]
    parent &= is_short(beside, own[1], its[1], cosines)
    free = (others < num_latents) & ~(moved[:, None] | counts.of(moved))
    score = jnp.where((child | parent) & free, counts.given * back, 0)
    # Each is the other's best partner, so no atom is in two pairs. If either can be the base, the
    # first becomes it.
    best = jnp.argmax(score, axis=1)[:, None]

    def of_best(values):
        return jnp.take_along_axis(values, best, axis=1)[:, 0]

    u = of_best(others)
    turns = (of_best(score) > 0) & (u[u] == names) & of_best(parent)
    turns &= ~(of_best(child) & (u < names))
    base = unit_atoms(dictionary[:, u] * counts.squares[u] + dictionary * of_best(counts.products))[
        0
    ]
    rest = dictionary - jnp.sum(dictionary * base, axis=0) * base
    turns &= jnp.linalg.norm(rest, axis=0) > LEAST_REST
    atoms = atoms.put(jnp.where(turns, u, num_latents), base)
    return atoms.put(jnp.where(turns, names, num_latents), unit_atoms(rest)[0])


def is_short(beside, size, other, cosine):
    """Tells whether the ray of j, `z̄_ij d_i + z̄_j d_j`, is shorter than that of i or about as
    long; a child's is longer.

    Args:
      beside: z̄_ij, the mean code of i beside j.
      size: z̄_i.
      other: z̄_j.
      cosine: the cosine of the atoms i and j.
    """
    return beside**2 + other**2 + 2 * beside * other * cosine < ((1 + DIFFER) * size) ** 2
