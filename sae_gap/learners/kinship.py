r"""Atoms of concepts that occur together: told apart by who is on with whom, where sparsity alone would merge them.

A concept that is on only beside another, a child beside its parent, costs a sparse code one atom less if its own atom is the
sum of both: it *absorbs* its parent. Reconstruction is indifferent, since p and c span the same plane as p and p + c. What
tells the truth from a merger is that concepts are incoherent and their atoms, once merged, are not. So coherence is taken out
of pairs of atoms, of which one stays and the other moves. Which of them stays, co-occurrence tells. With the share

    P(i | j) = (samples that use i and j) / (samples that use j),

atom i *includes* j where `P(i | j)` is nearly 1, as a parent includes its children.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.encoders.base import unit_atoms

# P(i | j) from which i includes j, once j was used so often; and P(j | i) from which j had better be the base.
INCLUDED, USED, SWAPPED = 0.8, 6, 0.6
# Children that a parent is looked at with; coherence from which they share something; share of a parent's uses without any of
# them from which its own atom is a ray of its own; loading on the common atom from which that ray is the common atom already.
CHILDREN, SHARED, ALONE, PURE = 8, 0.1, 0.05, 0.93
# An atom used less than this share of the median is free for another concept, and so is one whose codes are so small.
SELDOM, SMALL = 0.05, 0.5


class Company(NamedTuple):
    """Who is used with whom: entry (i, j) of `together` counts the samples that use both, and `products` is ZᵀZ."""

    together: Float[Array, "num_latents num_latents"]
    products: Float[Array, "num_latents num_latents"]


def nobody(num_latents: int, dtype) -> Company:
    """Counts that have not begun."""
    zeros = jnp.zeros((num_latents, num_latents), dtype)
    return Company(zeros, zeros)


def count(company: Company, places: Int[Array, "n slots"], codes: Float[Array, "n slots"]) -> Company:
    """The counts with some samples more, whose codes are given by slot."""

    def add(w, company):
        row, on = places[:, w, None], (codes[:, w, None] > 0) & (codes > 0)
        product = codes[:, w, None] * codes
        together = company.together.at[row, places].add(on.astype(codes.dtype))
        return Company(together, company.products.at[row, places].add(product))

    return lax.fori_loop(0, codes.shape[1], add, company)


def shares(company: Company) -> tuple[Float[Array, "num_latents num_latents"], Float[Array, " num_latents"]]:
    """P(i | j) in row i and column j, zero on the diagonal, and how often each atom was used."""
    uses = jnp.diagonal(company.together)
    share = company.together / jnp.maximum(uses, 1)
    return share - jnp.diag(jnp.diagonal(share)), uses


def push(
    dictionary: Float[Array, "input_dim num_latents"], company: Company, weight: float
) -> Float[Array, "input_dim num_latents"]:
    r"""Takes out of each atom what it shares with those that include it, `d_j ← unit(d_j - weight Σ_i (d_i · d_j) d_i)`.

    The sum is over the atoms i that include j and are more coherent with it than two atoms are by chance.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      company: the counts.
      weight: share of the coherence that is taken out.
    """
    gram = dictionary.T @ dictionary
    share, uses = shares(company)
    includes = (share > INCLUDED) & (uses[:, None] > uses) & (uses >= USED)
    # The diagonal of the shares is zero, so that nothing includes itself.
    shared = jnp.where(includes & (gram > dictionary.shape[0] ** -0.5), gram, 0)
    return unit_atoms(dictionary - weight * (dictionary @ shared))[0]


def rearrange(
    dictionary: Float[Array, "input_dim num_latents"], company: Company
) -> tuple[Float[Array, "input_dim num_latents"], Company]:
    """Puts right what no push can: a base that is the wrong one, and a parent that is one of its children as well.

    Returns:
      The dictionary, and the counts without those of atoms that moved, which are no longer theirs.
    """
    dictionary, swapped = _swap(dictionary, company)
    dictionary, moved = _centre(dictionary, company, swapped)
    kept = ~(moved[:, None] | moved)
    return dictionary, Company(*(jnp.where(kept, table, 0) for table in company))


def _swap(dictionary, company):
    """Makes u the base of v where v includes u and u is on in most uses of v: fewer atoms a sample say the same.

    The mean signal where u is on becomes u, and v what it has beside that.
    """
    num_latents = dictionary.shape[1]
    share, uses = shares(company)
    names = jnp.arange(num_latents)
    can = (share > INCLUDED) & (share.T > SWAPPED) & (uses[:, None] >= uses) & (uses >= USED)
    score = jnp.where(can, share * share.T, 0)
    either = jnp.maximum(score, score.T)
    # Pairs of which each is the other's best, so that no atom is in two.
    u = jnp.argmax(either, axis=1)
    swaps = (jnp.max(either, axis=1) > 0) & (u[u] == names) & can[names, u] & ~(can[u, names] & (u < names))
    base = unit_atoms(dictionary[:, u] * company.products[u, u] + dictionary * company.products[names, u])[0]
    left = dictionary - jnp.sum(dictionary * base, axis=0) * base
    swaps = swaps & (jnp.linalg.norm(left, axis=0) > 0.05)
    target_u, target_v = jnp.where(swaps, u, num_latents), jnp.where(swaps, names, num_latents)
    dictionary = dictionary.at[:, target_u].set(base, mode="drop").at[:, target_v].set(unit_atoms(left)[0], mode="drop")
    moved = jnp.zeros(num_latents, bool).at[target_u].set(True, mode="drop").at[target_v].set(True, mode="drop")
    return dictionary, moved


def _parents(share, uses):
    """The least used atom that includes each, or -1."""
    fits = (share > INCLUDED) & (uses[:, None] > 1.02 * uses) & (uses >= USED)
    return jnp.where(jnp.any(fits, axis=0), jnp.argmin(jnp.where(fits, uses[:, None], jnp.inf), axis=0), -1)


def _centre(dictionary, company, taken):
    r"""Splits parents that are one of their children as well, `v = p + c_1`.

    Such an atom is on with each other child, whose atom then lies along `p + c_k` less its part along v: they all share
    `p - c_1`, are coherent, and exclude each other. Their rays `r_k = p + c_k`, the mean signals of their users, and v itself
    have the Gram matrix of one common factor, `r_j · r_k = a_j a_k`, with `a_j = r_j · p`; from which a, and with it p as the
    combination `Σ_k β_k r_k` that has these products. Children are what their rays have beside p.
    """
    num_latents = dictionary.shape[1]
    share, uses = shares(company)
    names = jnp.arange(num_latents)
    parent = jnp.where(taken, -1, _parents(share, uses))
    gram = dictionary.T @ dictionary
    siblings = (parent[:, None] == parent) & (parent >= 0) & (names[:, None] != names)
    apart = jnp.maximum(share, share.T) < 0.5
    alike = siblings & apart & (gram > SHARED)
    parent = jnp.where(jnp.any(alike, axis=0), parent, num_latents)
    # Children by parent, a row each, filled up with num_latents.
    order = jnp.argsort(parent, stable=True)
    rank = names - jnp.searchsorted(parent[order], parent[order])
    children = jnp.full((num_latents, CHILDREN), num_latents).at[parent[order], rank].set(order, mode="drop")
    is_child = children < num_latents
    number = jnp.sum(is_child, axis=1)
    alone = 1 - jnp.sum(jnp.where(is_child, uses[jnp.minimum(children, num_latents - 1)], 0), axis=1) / jnp.maximum(uses, 1)

    def split(v):
        own = jnp.minimum(children[v], num_latents - 1)
        among = gram[own[:, None], own]
        pairs = is_child[v][:, None] & is_child[v] & ~jnp.eye(CHILDREN, dtype=bool)
        shared = jnp.sum(jnp.where(pairs, among, 0)) / jnp.maximum(jnp.sum(pairs), 1)
        rays = dictionary[:, own] * company.products[own, own] + dictionary[:, v, None] * company.products[v, own]
        rays = unit_atoms(jnp.concatenate([rays, dictionary[:, v, None]], axis=1))[0]
        exists = jnp.append(is_child[v], alone[v] > ALONE)
        products = rays.T @ rays
        loading = _loadings(products, exists)
        both = exists[:, None] & exists
        system = jnp.where(both, products, 0) + jnp.diag(jnp.where(exists, 1e-2, 1))
        common = unit_atoms((rays @ jnp.linalg.solve(system, jnp.where(exists, loading, 0)))[:, None])[0]
        left = rays - common * (common.T @ rays)
        enough = (number[v] >= 2) & (jnp.sum(exists) >= 3) & (shared > SHARED) & ~taken[v]
        return enough & ~(exists[-1] & (loading[-1] > PURE)), common[:, 0], left, jnp.linalg.norm(left, axis=0)

    wanted, common, left, length = lax.map(split, names, batch_size=64)
    # Not a parent and its own parent at once.
    above = _parents(share, uses)
    wanted = wanted & ~(wanted[jnp.maximum(above, 0)] & (above >= 0))
    fresh = unit_atoms(jnp.swapaxes(left, 1, 2).reshape(-1, left.shape[1]).T)[0].reshape(-1, num_latents, CHILDREN + 1)
    at_child = jnp.where(wanted[:, None] & (length[:, :-1] > 0.1), children, num_latents)
    at_parent = jnp.where(wanted, names, num_latents)
    moved = taken.at[at_child].set(True, mode="drop").at[at_parent].set(True, mode="drop")
    # The child that the parent was as well takes the atom that is nearest to it, or else one of hardly any use.
    lost = wanted & (alone > ALONE) & (length[:, -1] > 0.2)
    close = jnp.where(moved[:, None], -1, dictionary.T @ fresh[:, :, -1])
    energy = jnp.diagonal(company.products)
    size = jnp.sqrt(energy / jnp.maximum(uses, 1))
    free = (uses < SELDOM * jnp.median(uses)) | (size < SMALL * jnp.median(size))
    idle = jnp.where(free & ~moved, energy, jnp.inf)
    queue = jnp.argsort(idle)
    turn = jnp.minimum(jnp.cumsum(lost) - 1, num_latents - 1)
    spare = jnp.where(idle[queue[turn]] < jnp.inf, queue[turn], num_latents)
    at_lost = jnp.where(lost, jnp.where(jnp.max(close, axis=0) > 0.5, jnp.argmax(close, axis=0), spare), num_latents)
    dictionary = dictionary.at[:, at_lost].set(fresh[:, :, -1], mode="drop")
    dictionary = dictionary.at[:, at_child].set(fresh[:, :, :-1], mode="drop").at[:, at_parent].set(common.T, mode="drop")
    return dictionary, moved.at[at_lost].set(True, mode="drop")


def _loadings(products: Float[Array, "some some"], exists: Bool[Array, " some"]) -> Float[Array, " some"]:
    """The a of `products[j, k] = a_j a_k` off the diagonal: `a_j² = mean of products[j, k] products[j, l] / products[k, l]`."""
    some = len(exists)
    other = ~jnp.eye(some, dtype=bool) & exists[:, None] & exists
    triples = other[:, :, None] & other[:, None, :] & other[None]
    ratios = products[:, :, None] * products[:, None, :] / jnp.maximum(products, 0.05)
    squares = jnp.sum(jnp.where(triples, ratios, 0), axis=(1, 2)) / jnp.maximum(jnp.sum(triples, axis=(1, 2)), 1)
    return jnp.sqrt(jnp.clip(squares, 0.01, 1))


__all__ = ["Company", "count", "nobody", "push", "rearrange", "shares"]
