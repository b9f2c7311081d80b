"""The rules of families: four repairs for faults that decorrelating children from their parents
cannot mend.

README.md beside this file has the problem, the equations, the schedule and a table of the
thresholds. Here p and c are concepts of a parent and its child, and u and v are atoms. An atom is
on in a sample, which uses it, if its code is positive. Its ray is the mean, where it is on, of what
it and the atoms that it is compared with explain.

All atoms are treated at once, in arrays of fixed shapes. So the index `num_latents` stands for "no
atom": JAX reads the last atom in its place, which is then ignored, and drops assignments to it.
"""

from collections import namedtuple

import jax.numpy as jnp
from jax import lax

from sae_gap.encoders import unit_atoms
from sae_gap.learners import (
    LEAST_USES,
    PARTNERS,
    coherent_cosine,
    includes,
    least_share,
    mean_code,
    parents,
    with_partner,
)
from sae_gap.learners.online.decorrelation import GRAM_COLUMNS

# Two atoms are apart if each is on in less than this share of the other's uses.
APART = 0.5
# An atom with less than this share of the usual energy is idle, and free for another concept.
IDLE = 0.1
# How many atoms of a family are considered, and how many families are solved for at once.
MEMBERS = 8
BATCH = 64
# An atom is compared with so many atoms of the largest cosines, or children of one parent.
NEIGHBOURS = 32
# A unit ray without the common factor becomes an atom if it is longer than this.
LEAST_REST = 0.1
# These keep a common factor well-posed: a ridge, also the least squared loading, and the least
# cosine to divide by.
_RIDGE = 0.01
_LEAST_COSINE = 0.05
# Siblings share more than by chance if their cosines, each and on average, exceed this.
SIBLINGS = 0.1
# If a parent is without its children in at most this share of its uses, its own ray says nothing.
ALONE = 0.05
# A parent whose loading on the common factor exceeds this is that factor, and is not split.
PURE = 0.93
# Atoms are a family if their mean loading on the common factor exceeds this; the loading of p + c
# is .71 if p and c have the same length.
LOADED = 0.6
# An atom is the common factor if its cosine with it exceeds this.
SAME = 0.9
# If a parent is merged with a child, its mean code beside the others is smaller than without them
# by more than this share. The rays of a child and its parent differ by as much.
DIFFER = 0.15
# A ray contains another if its projection onto that is longer than this share of it.
CONTAINS = 0.75
# An atom is only parted from one with more than this share of its energy.
_LEAST_ENERGY = 0.3
# An atom has its parent's concept if less than this length of it remains without the parent.
_LEAST_PARTED = 0.5


class Atoms(namedtuple("Atoms", "dictionary moved")):
    """A dictionary of unit atoms, (input_dim, num_latents), with a mask of the atoms that have
    moved.
    """

    def put(self, places, atoms):
        """Puts atoms, (..., input_dim), at unit length in their places, (...,); drops those whose
        place is num_latents.
        """
        places = places.reshape(-1)
        columns = atoms.reshape(-1, atoms.shape[-1]).T
        return Atoms(
            self.dictionary.at[:, places].set(unit_atoms(columns)[0], mode="drop"),
            self.moved.at[places].set(True, mode="drop"),
        )


def repair(dictionary, counts, idle):
    """Repairs parents that decorrelation cannot: those that are merged with a child, have no atom,
    are turned, or recur in a child. An atom moves at most once.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      counts: the co-occurrence of its atoms.
      idle: (num_latents,), `idle_energy`; finite for atoms that are free for other concepts, the
        least first.

    Returns:
      The atoms, and `idle`, set to 0 for atoms whose concept has another atom.
    """
    atoms = Atoms(dictionary, jnp.zeros(dictionary.shape[1], bool))
    atoms = split_merged_parents(atoms, counts, idle)
    atoms = add_missing_parents(atoms, counts, idle)
    atoms, twice = part_from_parents(turn_pairs(atoms, counts), counts)
    return atoms, jnp.where(twice, 0, idle)


def split_merged_parents(atoms, counts, idle):
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
    rows = atoms.dictionary.T
    num_latents = len(rows)
    uses = counts.uses
    parent = parents(counts)
    names = jnp.arange(num_latents)
    siblings = (
        members_of(parent, NEIGHBOURS)
        .at[parent]
        .get(mode="fill", fill_value=num_latents)
    )
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
    size = counts.size
    cosine = jnp.sum(rows * rows[owner], axis=1)
    times = over_children(both)
    total = over_children(both * beside)
    alone = 1 - over_children(uses) / jnp.maximum(uses, 1)
    without = (counts.sums - total) / jnp.maximum(uses - times, 1)
    smaller = total / jnp.maximum(times, 1) < (1 - DIFFER) * without
    short = is_short(beside, size[owner], size, cosine)
    # If p and c have the usual size, their sum is larger.
    large = size > jnp.nanmedian(jnp.where(uses >= LEAST_USES, size, jnp.nan))
    # The conditions for a parent to be split from a lone child.
    is_lone = smaller & large & (times > PARTNERS * uses)

    def split(v):
        exists = children[v] < num_latents
        own = jnp.minimum(children[v], num_latents - 1)
        pairs = exists[:, None] & exists & ~jnp.eye(MEMBERS, dtype=bool)
        some = rows[own]
        shared = jnp.sum(jnp.where(pairs, some @ some.T, 0)) / jnp.maximum(
            jnp.sum(pairs), 1
        )
        rays = some * counts.squares[own, None] + rows[v] * product[own, None]
        exists = jnp.append(exists, alone[v] > ALONE)
        common, rest, length, loading = common_factor(
            unit_atoms(jnp.vstack([rays, rows[v]]).T)[0].T, exists
        )
        many = (
            (jnp.sum(exists) >= 3)
            & (shared > SIBLINGS)
            & (smaller[v] | (alone[v] <= ALONE))
        )
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
    at_child = jnp.where(
        wanted[:, None] & (length[:, :-1] > LEAST_REST), children, num_latents
    )
    at_parent = jnp.where(wanted, names, num_latents)
    return (
        atoms.put(at_child, rest[:, :-1]).put(at_parent, common).put(spare, rest[:, -1])
    )


def add_missing_parents(atoms, counts, idle):
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
    names = jnp.arange(num_latents)
    others = nearest(dictionary)
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
        exists = members < num_latents
        own = jnp.minimum(members, num_latents - 1)
        common, rest, length, loading = common_factor(dictionary.T[own], exists)
        # Fewer than three members have no triples, and so the least loadings.
        loaded = jnp.sum(jnp.where(exists, loading, 0)) > LOADED * jnp.sum(exists)
        close = jnp.where(moved, -1, common @ dictionary)
        near = jnp.argmax(close)
        return loaded, common, rest, length, near, loaded & (close[near] > SAME)

    wanted, common, rest, length, near, has = lax.map(find, members, batch_size=BATCH)
    in_family = jnp.append(wanted, False)[leader]
    # An atom is the parent of one family, the first, and only of its own if it is in one.
    near = jnp.where(
        has & ((leader[near] == names) | ~in_family[near]), near, num_latents
    )
    first = jnp.full(num_latents + 1, num_latents).at[near].min(names)
    near = jnp.where(first[near] == names, near, num_latents)
    claimed = jnp.zeros(num_latents, bool).at[near].set(True, mode="drop")
    spare = idle_atoms(
        wanted & ~has, jnp.where(moved | claimed | in_family, jnp.inf, idle)
    )
    at_parent = jnp.where(has, near, spare)
    at_member = jnp.where(
        (at_parent < num_latents)[:, None] & (length > LEAST_REST), members, num_latents
    )
    # Put the parent last, since it may be a member.
    return atoms.put(at_member, rest).put(at_parent, common)


def turn_pairs(atoms, counts):
    """Turns pairs `v = p + c`, which is on wherever p is, and `u = p - c`, its partner, which is on
    beside v when c is off.

    If p and c have the same length, so have the codes of v and u where both are on: reconstruction
    and cosines cannot tell this pair from p and c, and it is as sparse. But the ray of u is p,
    which is shorter than that of v; if v were a parent, its child's ray would be longer. The ray
    becomes u, the base of the pair, and the remainder of v becomes v.
    """
    rows = atoms.dictionary.T
    moved = atoms.moved
    num_latents = len(rows)
    names = jnp.arange(num_latents)
    others = counts.partners
    uses = counts.uses
    size = counts.size
    cosines = lax.map(
        lambda name: rows[others[name]] @ rows[name], names, batch_size=BATCH
    )
    # Each atom as the parent of its partners, and as their child.
    own = (uses[:, None], size[:, None])
    its = (counts.of(uses), counts.of(size))
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
    base = rows[u] * counts.squares[u, None] + rows * of_best(counts.products)[:, None]
    base = unit_atoms(base.T)[0].T
    rest = rows - jnp.sum(rows * base, axis=1, keepdims=True) * base
    turns &= jnp.linalg.norm(rest, axis=1) > LEAST_REST
    at_base, at_other = (jnp.where(turns, place, num_latents) for place in (u, names))
    return atoms.put(at_base, base).put(at_other, rest)


def is_short(beside, size, other, cosine):
    """Tells whether the ray of j, `z̄_ij d_i + z̄_j d_j`, is shorter than that of i or about as
    long; a child's is longer.

    Args:
      beside: z̄_ij, the mean code of i beside j.
      size: z̄_i.
      other: z̄_j.
      cosine: the cosine of the atoms i and j.
    """
    return (
        beside**2 + other**2 + 2 * beside * other * cosine < ((1 + DIFFER) * size) ** 2
    )


def part_from_parents(atoms, counts):
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
    size = counts.size
    energy = counts.squares
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
    parts = jnp.any(lies, axis=1)
    twice = jnp.linalg.norm(rest, axis=0) < _LEAST_PARTED
    places = jnp.where(parts & ~twice, jnp.arange(len(size)), len(size))
    return atoms.put(places, rest.T), parts & twice


def usual_energy(squares):
    """Returns the median energy Σ z² of the atoms with any; 0 if none has."""
    return jnp.nan_to_num(jnp.nanmedian(jnp.where(squares > 0, squares, jnp.nan)))


def idle_energy(squares):
    """Returns the energy of idle atoms, which have less than the share `IDLE` of the usual energy;
    infinity for others.
    """
    return jnp.where(
        (squares > 0) & (squares >= IDLE * usual_energy(squares)), jnp.inf, squares
    )


def idle_atoms(wanted, idle):
    """Returns an idle atom for each wanting place while there are any; else num_latents."""
    queue = jnp.argsort(idle)
    turn = jnp.cumsum(wanted) - 1
    return jnp.where(wanted & (idle[queue[turn]] < jnp.inf), queue[turn], len(idle))


def nearest(dictionary):
    """Returns for each atom the few with the largest cosines, itself included, in the order of
    their numbers.
    """
    most = min(NEIGHBOURS, dictionary.shape[1])
    return lax.map(
        lambda atom: jnp.sort(lax.top_k(dictionary.T @ atom, most)[1]),
        dictionary.T,
        batch_size=GRAM_COLUMNS,
    )


def alike_pairs(atoms, counts, others, least):
    """Tells which of some others each atom is alike to, and their cosines: the cosine exceeds
    `least`, and both atoms are judged, and apart.

    Args:
      atoms: the dictionary, with a mask of the atoms that have moved.
      counts: the co-occurrence of its atoms.
      others: (num_latents, others), numbers of atoms, num_latents for none.
      least: the least cosine.
    """
    rows = atoms.dictionary.T
    given = counts.given
    names = jnp.arange(len(atoms.moved))
    judged = (counts.uses >= LEAST_USES) & ~atoms.moved

    def compare(name):
        own = others[name]
        cosines = rows[own] @ rows[name]
        # For each of the two, the share of its uses in which the other is on.
        share = jnp.where(counts.partners[name] == own[:, None], given[name], 0)
        back = jnp.where(counts.partners[own] == name, given[own], 0)
        apart = jnp.max(jnp.maximum(share, back), axis=1, initial=0) < APART
        exists = (own < len(names)) & (own != name)
        return exists & judged[name] & judged[own] & apart & (cosines > least), cosines

    return lax.map(compare, names, batch_size=BATCH)


def members_of(owner, most=MEMBERS):
    """Returns the first atoms that each atom owns, a row each, filled up with num_latents, which is
    also the owner, of (num_latents,), of atoms that have none.
    """
    num_latents = len(owner)
    order = jnp.argsort(owner, stable=True)
    rank = jnp.arange(num_latents) - jnp.searchsorted(owner[order], owner[order])
    return (
        jnp.full((num_latents, most), num_latents)
        .at[owner[order], rank]
        .set(order, mode="drop")
    )


def common_factor(rays, exists):
    """Returns the common factor p of unit rays, (input_dim,), the remainder of each without it,
    (some, input_dim), the lengths of these, and the loadings on p.

    Rays that share nothing but p have the products `r_j · r_k = a_j a_k`, with the loadings
    `a_j = r_j · p`. So `a_j² = mean over k and l of r_j·r_k r_j·r_l / r_k·r_l`. A solve with a
    ridge gives p as the combination `Σ_k β_k r_k` whose product with each r_j is a_j.

    Args:
      rays: rays of unit length.
      exists: a mask of the rays to consider.
    """
    products = rays @ rays.T
    pairs = exists[:, None] & exists
    other = pairs & ~jnp.eye(len(exists), dtype=bool)
    triples = other[:, :, None] & other[:, None, :] & other[None]
    ratios = (
        products[:, :, None]
        * products[:, None, :]
        / jnp.maximum(products, _LEAST_COSINE)
    )
    squares = jnp.sum(jnp.where(triples, ratios, 0), axis=(1, 2)) / jnp.maximum(
        jnp.sum(triples, axis=(1, 2)), 1
    )
    loading = jnp.sqrt(jnp.clip(squares, _RIDGE, 1))
    system = jnp.where(pairs, products, 0) + jnp.diag(jnp.where(exists, _RIDGE, 1))
    factor = jnp.linalg.solve(system, jnp.where(exists, loading, 0)) @ rays
    common = unit_atoms(factor[:, None])[0][:, 0]
    rest = rays - jnp.outer(rays @ common, common)
    return common, rest, jnp.linalg.norm(rest, axis=1), loading
