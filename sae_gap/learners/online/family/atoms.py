"""The atoms that rules compare and move, idle atoms, and the common factor of a family."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.encoders import unit_atoms
from sae_gap.learners import LEAST_USES, Cooccurrence
from sae_gap.learners.online.decorrelation import GRAM_COLUMNS

# Two atoms are apart if each is on in less than this share of the other's uses.
APART = 0.5
# An atom with less than this share of the usual energy is idle, and free for another concept.
IDLE = 0.1
# How many atoms of a family are considered, and how many families are solved for at once.
MEMBERS, BATCH = 8, 64
# An atom is compared with so many atoms of the largest cosines, or children of one parent.
NEIGHBOURS = 32
# A unit ray without the common factor becomes an atom if it is longer than this.
LEAST_REST = 0.1
# These keep a common factor well-posed: a ridge, also the least squared loading, and the least
# cosine to divide by.
_RIDGE, _LEAST_COSINE = 0.01, 0.05


class Atoms(NamedTuple):
    """A dictionary of unit atoms, with a mask of the atoms that have moved."""

    dictionary: Float[Array, "input_dim num_latents"]
    moved: Bool[Array, " num_latents"]

    def put(self, places: Int[Array, "..."], columns: Float[Array, "input_dim some"]) -> "Atoms":
        """Puts unit atoms in their places; drops those whose place is num_latents."""
        places = places.reshape(-1)
        return Atoms(
            self.dictionary.at[:, places].set(columns, mode="drop"),
            self.moved.at[places].set(True, mode="drop"),
        )


def usual_energy(squares: Float[Array, " num_latents"]) -> Float[Array, ""]:
    """Returns the median energy Σ z² of the atoms with any; 0 if none has."""
    return jnp.nan_to_num(jnp.nanmedian(jnp.where(squares > 0, squares, jnp.nan)))


def idle_energy(squares: Float[Array, " num_latents"]) -> Float[Array, " num_latents"]:
    """Returns the energy of idle atoms, which have less than the share `IDLE` of the usual energy;
    infinity for others.
    """
    return jnp.where((squares > 0) & (squares >= IDLE * usual_energy(squares)), jnp.inf, squares)


def idle_atoms(wanted, idle) -> Int[Array, " num_latents"]:
    """Returns an idle atom for each wanting place while there are any; else num_latents."""
    queue = jnp.argsort(idle)
    turn = jnp.cumsum(wanted) - 1
    return jnp.where(wanted & (idle[queue[turn]] < jnp.inf), queue[turn], len(idle))


def nearest(
    dictionary: Float[Array, "input_dim num_latents"],
) -> Int[Array, "num_latents neighbours"]:
    """Returns for each atom the few with the largest cosines, itself included, in the order of
    their numbers.
    """
    most = min(NEIGHBOURS, dictionary.shape[1])
    return lax.map(
        lambda atom: jnp.sort(lax.top_k(dictionary.T @ atom, most)[1]),
        dictionary.T,
        batch_size=GRAM_COLUMNS,
    )


def alike_pairs(
    atoms: Atoms, counts: Cooccurrence, others: Int[Array, "num_latents others"], least
) -> tuple[Bool[Array, "num_latents others"], Float[Array, "num_latents others"]]:
    """Tells which of some others each atom is alike to, and their cosines: the cosine exceeds
    `least`, and both atoms are judged, and apart.

    Args:
      atoms: the dictionary, with a mask of the atoms that have moved.
      counts: the co-occurrence of its atoms.
      others: numbers of atoms, num_latents for none.
      least: the least cosine.
    """
    rows, given, names = atoms.dictionary.T, counts.given, jnp.arange(len(atoms.moved))
    judged = (counts.uses >= LEAST_USES) & ~atoms.moved

    def compare(name):
        own = others[name]
        cosines = rows[own] @ rows[name]
        # For each of the two, the share of its uses in which the other is on.
        share = jnp.max(
            jnp.where(counts.partners[name] == own[:, None], given[name], 0), axis=1, initial=0
        )
        back = jnp.max(jnp.where(counts.partners[own] == name, given[own], 0), axis=1, initial=0)
        exists = (own < len(names)) & (own != name)
        apart = jnp.maximum(share, back) < APART
        return exists & judged[name] & judged[own] & apart & (cosines > least), cosines

    return lax.map(compare, names, batch_size=BATCH)


def members_of(
    owner: Int[Array, " num_latents"], most: int = MEMBERS
) -> Int[Array, "num_latents members"]:
    """Returns the first atoms that each atom owns, a row each, filled up with num_latents, which is
    also the owner of atoms that have none.
    """
    num_latents = len(owner)
    order = jnp.argsort(owner, stable=True)
    rank = jnp.arange(num_latents) - jnp.searchsorted(owner[order], owner[order])
    return jnp.full((num_latents, most), num_latents).at[owner[order], rank].set(order, mode="drop")


def common_factor(
    rays: Float[Array, "input_dim some"],
    products: Float[Array, "some some"],
    exists: Bool[Array, " some"],
):
    """Returns the common factor p of unit rays, (input_dim,), the remainder of each without it,
    (input_dim, some), the lengths of these, and the loadings on p.

    Rays that share nothing but p have the products `r_j · r_k = a_j a_k`, with the loadings
    `a_j = r_j · p`. So `a_j² = mean over k and l of r_j·r_k r_j·r_l / r_k·r_l`. A solve with a
    ridge gives p as the combination `Σ_k β_k r_k` whose product with each r_j is a_j.

    Args:
      rays: rays of unit length.
      products: the products of the rays.
      exists: a mask of the rays to consider.
    """
    pairs = exists[:, None] & exists
    other = pairs & ~jnp.eye(len(exists), dtype=bool)
    triples = other[:, :, None] & other[:, None, :] & other[None]
    ratios = products[:, :, None] * products[:, None, :] / jnp.maximum(products, _LEAST_COSINE)
    squares = jnp.sum(jnp.where(triples, ratios, 0), axis=(1, 2)) / jnp.maximum(
        jnp.sum(triples, axis=(1, 2)), 1
    )
    loading = jnp.sqrt(jnp.clip(squares, _RIDGE, 1))
    system = jnp.where(pairs, products, 0) + jnp.diag(jnp.where(exists, _RIDGE, 1))
    factor = rays @ jnp.linalg.solve(system, jnp.where(exists, loading, 0))
    common = unit_atoms(factor[:, None])[0]
    rest = rays - common * (common.T @ rays)
    return common[:, 0], rest, jnp.linalg.norm(rest, axis=0), loading


def unit_columns(
    atoms: Float[Array, "families input_dim members"],
) -> Float[Array, "input_dim columns"]:
    """Returns the atoms of all families at unit length, as columns."""
    return unit_atoms(jnp.moveaxis(atoms, 0, 1).reshape(atoms.shape[1], -1))[0]
