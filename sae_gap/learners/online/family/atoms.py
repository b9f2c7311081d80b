"""The atoms that rules compare and move, those that are idle, and the common factor of a family."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.online.cooccurrence import LEAST_USES, Cooccurrence
from sae_gap.learners.online.decorrelation import GRAM_COLUMNS

# Two atoms are apart if each is on in less than this share of the other's uses.
APART = 0.5
# An atom with less than this share of the usual energy is idle, and free for another concept.
IDLE = 0.1
# How many atoms of a family are looked at, and families that are solved for at once.
MEMBERS, BATCH = 8, 64
# Atoms of the largest cosines, and children of one parent, that an atom is compared with.
NEIGHBOURS = 32
# What is left of a unit ray without the common factor is an atom if it is longer than this.
LEAST_REST = 0.1
# What keeps a common factor from being ill-posed: a ridge, which is the least squared loading too,
# and the least cosine to divide by.
_RIDGE, _LEAST_COSINE = 0.01, 0.05


class Atoms(NamedTuple):
    """A dictionary of unit atoms, and which of them have moved."""

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
    """The median energy Σ z² of the atoms that have any; 0 where none has."""
    return jnp.nan_to_num(jnp.nanmedian(jnp.where(squares > 0, squares, jnp.nan)))


def idle_energy(squares: Float[Array, " num_latents"]) -> Float[Array, " num_latents"]:
    """The energy of idle atoms, which have less than the share `idle` of the usual one; infinity
    for others.
    """
    return jnp.where((squares > 0) & (squares >= IDLE * usual_energy(squares)), jnp.inf, squares)


def idle_atoms(wanted, idle) -> Int[Array, " num_latents"]:
    """An idle atom for each that wants one, as long as there are any; else num_latents."""
    queue = jnp.argsort(idle)
    turn = jnp.cumsum(wanted) - 1
    return jnp.where(wanted & (idle[queue[turn]] < jnp.inf), queue[turn], len(idle))


def nearest(
    dictionary: Float[Array, "input_dim num_latents"],
) -> Int[Array, "num_latents neighbours"]:
    """The few atoms of the largest cosines with each, itself among them, in the order of their
    numbers.
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
    """Which of some others each atom is alike to, and their cosines: those above the least, where
    both atoms are judged, and apart.

    Args:
      atoms: the dictionary, and which atoms have moved.
      counts: the co-occurrence of its atoms.
      others: numbers of atoms, num_latents where there is none.
      least: cosine.
    """
    rows, given, names = atoms.dictionary.T, counts.given, jnp.arange(len(atoms.moved))
    judged = (counts.uses >= LEAST_USES) & ~atoms.moved

    def compare(name):
        own = others[name]
        cosines = rows[own] @ rows[name]
        # The share of the uses of each of the two in which the other is on.
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
    """The first atoms that each atom owns, a row each, filled up with num_latents, the owner of
    those that have none.
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
    """The common factor p of unit rays, (input_dim,), what each has beside it, (input_dim, some),
    how long that is, and the loadings on p.

    Rays that have nothing but p in common have the products `r_j · r_k = a_j a_k`, with the
    loadings `a_j = r_j · p`. These give `a_j² = mean over k and l of r_j·r_k r_j·r_l / r_k·r_l`,
    and p is the combination `Σ_k β_k r_k` whose product with each r_j is a_j, by a solve with a
    ridge.

    Args:
      rays: of unit length.
      products: of the rays.
      exists: which of them are to be looked at.
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
    """The atoms of all families at unit length, as columns."""
    return unit_atoms(jnp.moveaxis(atoms, 0, 1).reshape(atoms.shape[1], -1))[0]
