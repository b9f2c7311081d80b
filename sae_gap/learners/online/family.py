"""The rules of families: four repairs for faults that decorrelating children from their parents
cannot mend.

README.md beside this file has the problem, the equations, the schedule and a table of the
thresholds. Here p and c are concepts of a parent and its child, and u and v are atoms. An atom is
on in a sample, which uses it, if its code is positive. Its ray is the mean, where it is on, of what
it and the atoms that it is compared with explain.

All atoms are treated at once, in arrays of fixed shapes. So the index `num_latents` stands for "no
atom": JAX reads the last atom in its place, which is then ignored, and drops assignments to it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.numpy import arange, argmax, maximum, minimum, where
from jaxtyping import Array, Bool, Float, Int

from sae_gap.encoders import unit_atoms
from sae_gap.learners import (
    LEAST_USES,
    PARTNERS,
    Cooccurrence,
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


class Atoms(NamedTuple):
    """A dictionary of unit atoms, with a mask of the atoms that have moved."""

    dictionary: Float[Array, "input_dim num_latents"]
    moved: Bool[Array, " num_latents"]

    def put(self, places: Int[Array, "..."], atoms: Float[Array, "..."]) -> "Atoms":
        """Puts atoms, (..., input_dim), at unit length in their places, (...,); drops those whose
        place is num_latents.
        """
        places = places.reshape(-1)
        columns = atoms.reshape(-1, atoms.shape[-1]).T
        return Atoms(
            self.dictionary.at[:, places].set(unit_atoms(columns)[0], mode="drop"),
            self.moved.at[places].set(True, mode="drop"),
        )


class Factor(NamedTuple):
    """What some rays have in common, and what is left of each.

    Attributes:
      common: the common factor p.
      rest: the remainder of each ray without it.
      length: the lengths of these.
      loading: each ray's loading on p.
    """

    common: Float[Array, "... input_dim"]
    rest: Float[Array, "... rays input_dim"]
    length: Float[Array, "... rays"]
    loading: Float[Array, "... rays"]


def repair(
    dictionary: Float[Array, "input_dim num_latents"],
    counts: Cooccurrence,
    idle: Float[Array, " num_latents"],
) -> tuple[Atoms, Float[Array, " num_latents"]]:
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
    return atoms, where(twice, 0, idle)


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
    parent = parents(counts)
    owner = owners(atoms, counts, parent)
    children = members_of(owner)
    evidence = weigh_parents(atoms, counts, owner)
    names = arange(len(owner))
    wanted, lone, factor = lax.map(
        lambda name: split_parent(name, children[name], atoms, counts, evidence),
        names,
        batch_size=BATCH,
    )
    # An atom is not split together with its own parent.
    wanted &= ~flags_of(wanted, parent)
    # The child that the parent was merged with takes an idle atom.
    lost = wanted & (evidence.alone > ALONE) & (factor.length[:, -1] > LEAST_REST)
    spare = idle_atoms(lost, where(wanted | flags_of(wanted, owner), jnp.inf, idle))
    wanted &= ~lone | (spare < len(owner))
    remains = factor.length[:, :-1] > LEAST_REST
    at_child = where(wanted[:, None] & remains, children, len(owner))
    at_parent = where(wanted, names, len(owner))
    atoms = atoms.put(at_child, factor.rest[:, :-1]).put(at_parent, factor.common)
    return atoms.put(spare, factor.rest[:, -1])


def owners(
    atoms: Atoms, counts: Cooccurrence, parent: Int[Array, " num_latents"]
) -> Int[Array, " num_latents"]:
    """Returns the parent of each atom that may be split from it: of one that is alike to a sibling
    or has none; num_latents for others.
    """
    num_latents = len(parent)
    siblings = members_of(parent, NEIGHBOURS)
    siblings = siblings.at[parent].get(mode="fill", fill_value=num_latents)
    alike, _ = alike_pairs(atoms, counts, siblings, SIBLINGS)
    lone = sum_by(parent, jnp.ones_like(counts.uses))[parent] == 1
    return where(jnp.any(alike, axis=1) | lone, parent, num_latents)


class Evidence(NamedTuple):
    """What counts say of atoms as parents, and as children of the parents that own them.

    Attributes:
      alone: the share of a parent's uses in which none of its children is on.
      smaller: whether its mean code beside its children is smaller than without them.
      splits_lone: whether its codes allow it to be split from a lone child.
      product: Σ z_i z_j of a child j and its owner i.
      short: whether a child's ray is no longer than its owner's.
    """

    alone: Float[Array, " num_latents"]
    smaller: Bool[Array, " num_latents"]
    splits_lone: Bool[Array, " num_latents"]
    product: Float[Array, " num_latents"]
    short: Bool[Array, " num_latents"]


def weigh_parents(
    atoms: Atoms, counts: Cooccurrence, owner: Int[Array, " num_latents"]
) -> Evidence:
    """Returns the evidence for a split of each parent from the atoms that it owns."""
    rows = atoms.dictionary.T
    uses = counts.uses
    size = counts.size
    together = with_partner(counts, counts.together, owner)
    beside = with_partner(counts, counts.beside, owner)
    times = sum_by(owner, together)
    total = sum_by(owner, together * beside)
    without = (counts.sums - total) / maximum(uses - times, 1)
    smaller = total / maximum(times, 1) < (1 - DIFFER) * without
    # If p and c have the usual size, their sum is larger.
    large = size > jnp.nanmedian(where(uses >= LEAST_USES, size, jnp.nan))
    cosine = jnp.sum(rows * rows[owner], axis=1)
    return Evidence(
        alone=1 - sum_by(owner, uses) / maximum(uses, 1),
        smaller=smaller,
        splits_lone=smaller & large & (times > PARTNERS * uses),
        product=with_partner(counts, counts.products, owner),
        short=is_short(beside, size[owner], size, cosine),
    )


def split_parent(
    name: Int[Array, ""],
    children: Int[Array, " members"],
    atoms: Atoms,
    counts: Cooccurrence,
    evidence: Evidence,
) -> tuple[Bool[Array, ""], Bool[Array, ""], Factor]:
    """Tells whether to split a parent from its children, and whether from a lone one; and returns
    the common factor of the children's rays and, in the last place, of its own atom.
    """
    rows = atoms.dictionary.T
    exists = children < len(rows)
    children = minimum(children, len(rows) - 1)
    child_rows = rows[children]
    pairs = exists[:, None] & exists & ~jnp.eye(MEMBERS, dtype=bool)
    shared = jnp.sum(where(pairs, child_rows @ child_rows.T, 0))
    shared = shared / maximum(jnp.sum(pairs), 1)
    rays = child_rows * counts.squares[children, None]
    rays = rays + rows[name] * evidence.product[children, None]
    has_alone = evidence.alone[name] > ALONE
    exists = jnp.append(exists, has_alone)
    factor = common_factor(unit_rows(jnp.vstack([rays, rows[name]])), exists)
    many = (jnp.sum(exists) >= 3) & (shared > SIBLINGS)
    many &= evidence.smaller[name] | ~has_alone
    lone = (jnp.sum(exists[:-1]) == 1) & has_alone & evidence.splits_lone[name]
    lone &= ~evidence.short[children[0]]
    return (many | lone) & (factor.loading[-1] <= PURE), lone, factor


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
    leader = leaders(atoms, counts)
    num_latents = len(leader)
    members = members_of(leader)
    wanted, factor, near, has_atom = lax.map(
        lambda members: find_parent(members, atoms), members, batch_size=BATCH
    )
    in_family = flags_of(wanted, leader)
    near = parents_of_one_family(near, has_atom, leader, in_family)
    claimed = jnp.zeros(num_latents, bool).at[near].set(True, mode="drop")
    busy = atoms.moved | claimed | in_family
    spare = idle_atoms(wanted & ~has_atom, where(busy, jnp.inf, idle))
    at_parent = where(has_atom, near, spare)
    remains = factor.length > LEAST_REST
    has_place = (at_parent < num_latents)[:, None]
    at_member = where(has_place & remains, members, num_latents)
    # Put the parent last, since it may be a member.
    return atoms.put(at_member, factor.rest).put(at_parent, factor.common)


def leaders(atoms: Atoms, counts: Cooccurrence) -> Int[Array, " num_latents"]:
    """Returns the atom that each atom follows; num_latents if that follows another."""
    dictionary = atoms.dictionary
    num_latents = dictionary.shape[1]
    names = arange(num_latents)
    others = nearest(dictionary)
    alike, cosines = alike_pairs(atoms, counts, others, coherent_cosine(dictionary))
    central = jnp.sum(where(alike, cosines, 0), axis=1)
    beside = where(alike, central[others], -1)
    most = maximum(jnp.max(beside, axis=1), central)
    # The first of the most central atoms.
    leader = jnp.min(where(beside == most[:, None], others, num_latents), axis=1)
    leader = where(central == most, minimum(names, leader), leader)
    return where(leader[leader] == leader, leader, num_latents)


def find_parent(
    members: Int[Array, " members"], atoms: Atoms
) -> tuple[Bool[Array, ""], Factor, Int[Array, ""], Bool[Array, ""]]:
    """Tells whether members are a family without a parent, and their common factor; and returns the
    atom nearest to the factor, and whether that is the parent already.
    """
    dictionary = atoms.dictionary
    exists = members < dictionary.shape[1]
    members = minimum(members, dictionary.shape[1] - 1)
    factor = common_factor(dictionary.T[members], exists)
    # Fewer than three members have no triples, and so the least loadings.
    wanted = jnp.sum(where(exists, factor.loading, 0)) > LOADED * jnp.sum(exists)
    close = where(atoms.moved, -1, factor.common @ dictionary)
    near = argmax(close)
    return wanted, factor, near, wanted & (close[near] > SAME)


def parents_of_one_family(
    near: Int[Array, " num_latents"],
    has_atom: Bool[Array, " num_latents"],
    leader: Int[Array, " num_latents"],
    in_family: Bool[Array, " num_latents"],
) -> Int[Array, " num_latents"]:
    """Returns the atom that is the parent of each leader's family, or num_latents: an atom is the
    parent of one family, the first, and only of its own if it is in one.
    """
    num_latents = len(leader)
    names = arange(num_latents)
    fits = has_atom & ((leader[near] == names) | ~in_family[near])
    near = where(fits, near, num_latents)
    first = jnp.full(num_latents + 1, num_latents).at[near].min(names)
    return where(first[near] == names, near, num_latents)


def turn_pairs(atoms: Atoms, counts: Cooccurrence) -> Atoms:
    """Turns pairs `v = p + c`, which is on wherever p is, and `u = p - c`, its partner, which is on
    beside v when c is off.

    If p and c have the same length, so have the codes of v and u where both are on: reconstruction
    and cosines cannot tell this pair from p and c, and it is as sparse. But the ray of u is p,
    which is shorter than that of v; if v were a parent, its child's ray would be longer. The ray
    becomes u, the base of the pair, and the remainder of v becomes v.
    """
    rows = atoms.dictionary.T
    num_latents = len(rows)
    names = arange(num_latents)
    back = counts.together / maximum(counts.of(counts.uses), 1)
    child, parent = pair_roles(rows, counts, back)
    moves = atoms.moved[:, None] | counts.of(atoms.moved)
    free = (counts.partners < num_latents) & ~moves
    score = where((child | parent) & free, counts.given * back, 0)
    # Each is the other's best partner, so no atom is in two pairs. If either can be the base, the
    # first becomes it.
    best = argmax(score, axis=1)[:, None]

    def of_best(values: Array) -> Array:
        return jnp.take_along_axis(values, best, axis=1)[:, 0]

    u = of_best(counts.partners)
    turns = (of_best(score) > 0) & (u[u] == names) & of_best(parent)
    turns &= ~(of_best(child) & (u < names))
    base = rows[u] * counts.squares[u, None]
    base = unit_rows(base + rows * of_best(counts.products)[:, None])
    rest = rows - jnp.sum(rows * base, axis=1, keepdims=True) * base
    turns &= jnp.linalg.norm(rest, axis=1) > LEAST_REST
    at_base = where(turns, u, num_latents)
    return atoms.put(at_base, base).put(where(turns, names, num_latents), rest)


def pair_roles(
    rows: Float[Array, "num_latents input_dim"],
    counts: Cooccurrence,
    back: Float[Array, "num_latents partners"],
) -> tuple[Bool[Array, "num_latents partners"], Bool[Array, "num_latents partners"]]:
    """Tells whether each atom may be u, the child, and v, the parent, of a pair with each of its
    partners; `back` is the share of the partner's uses in which the atom is on.
    """
    cosines = lax.map(
        lambda name: rows[counts.partners[name]] @ rows[name],
        arange(len(rows)),
        batch_size=BATCH,
    )
    uses = counts.uses[:, None]
    size = counts.size[:, None]
    its_uses = counts.of(counts.uses)
    its_size = counts.of(counts.size)
    beside = mean_code(
        counts.products, counts.together, counts.of(counts.sums), its_uses
    )
    child = includes(counts) & (back > PARTNERS) & (its_uses >= uses)
    child &= is_short(counts.beside, its_size, size, cosines)
    parent = (back > least_share(counts)[:, None]) & (its_uses >= LEAST_USES)
    parent &= (uses >= its_uses) & is_short(beside, size, its_size, cosines)
    return child, parent


def is_short(beside: Array, size: Array, other: Array, cosine: Array) -> Array:
    """Tells whether the ray of j, `z̄_ij d_i + z̄_j d_j`, is shorter than that of i or about as
    long; a child's is longer.

    Args:
      beside: z̄_ij, the mean code of i beside j.
      size: z̄_i.
      other: z̄_j.
      cosine: the cosine of the atoms i and j.
    """
    square = beside**2 + other**2 + 2 * beside * other * cosine
    return square < ((1 + DIFFER) * size) ** 2


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
    size = counts.size
    energy = counts.squares
    others = nearest(dictionary)
    lies, cosines = alike_pairs(atoms, counts, others, coherent_cosine(dictionary))
    lies &= size[others] < size[:, None]
    lies &= cosines * size[:, None] > CONTAINS * size[others]
    lies &= energy[others] > _LEAST_ENERGY * energy[:, None]
    # A parent does not move itself.
    lies &= ~jnp.any(lies, axis=1)[others]
    longest = argmax(where(lies, size[others], -1), axis=1)
    parent = dictionary[:, jnp.take_along_axis(others, longest[:, None], axis=1)[:, 0]]
    rest = dictionary - jnp.sum(dictionary * parent, axis=0) * parent
    parts = jnp.any(lies, axis=1)
    twice = jnp.linalg.norm(rest, axis=0) < _LEAST_PARTED
    places = where(parts & ~twice, arange(len(size)), len(size))
    return atoms.put(places, rest.T), parts & twice


def unit_rows(rows: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
    """Scales rows to unit length."""
    return unit_atoms(rows.T)[0].T


def flags_of(
    flags: Bool[Array, " num_latents"], places: Int[Array, " n"]
) -> Bool[Array, " n"]:
    """Returns the flag of the atom at each place; False where the place is num_latents."""
    return jnp.append(flags, False)[places]


def sum_by(
    owner: Int[Array, " num_latents"], values: Float[Array, " num_latents"]
) -> Float[Array, " num_latents"]:
    """Returns for each atom the sum of the values of the atoms that it owns."""
    return jnp.zeros_like(values).at[owner].add(values, mode="drop")


def usual_energy(squares: Float[Array, " num_latents"]) -> Float[Array, ""]:
    """Returns the median energy Σ z² of the atoms with any; 0 if none has."""
    return jnp.nan_to_num(jnp.nanmedian(where(squares > 0, squares, jnp.nan)))


def idle_energy(
    squares: Float[Array, " num_latents"],
) -> Float[Array, " num_latents"]:
    """Returns the energy of idle atoms, which have less than the share `IDLE` of the usual energy;
    infinity for others.
    """
    is_used = (squares > 0) & (squares >= IDLE * usual_energy(squares))
    return where(is_used, jnp.inf, squares)


def idle_atoms(
    wanted: Bool[Array, " num_latents"], idle: Float[Array, " num_latents"]
) -> Int[Array, " num_latents"]:
    """Returns an idle atom for each wanting place while there are any; else num_latents."""
    next_idle = jnp.argsort(idle)[jnp.cumsum(wanted) - 1]
    return where(wanted & (idle[next_idle] < jnp.inf), next_idle, len(idle))


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
    atoms: Atoms,
    counts: Cooccurrence,
    others: Int[Array, "num_latents others"],
    least: float | Float[Array, ""],
) -> tuple[Bool[Array, "num_latents others"], Float[Array, "num_latents others"]]:
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
    names = arange(len(atoms.moved))
    judged = (counts.uses >= LEAST_USES) & ~atoms.moved

    def compare(name: Array) -> tuple[Array, Array]:
        own = others[name]
        cosines = rows[own] @ rows[name]
        # For each of the two, the share of its uses in which the other is on.
        share = where(counts.partners[name] == own[:, None], given[name], 0)
        back = where(counts.partners[own] == name, given[own], 0)
        apart = jnp.max(maximum(share, back), axis=1, initial=0) < APART
        exists = (own < len(names)) & (own != name)
        return exists & judged[name] & judged[own] & apart & (cosines > least), cosines

    return lax.map(compare, names, batch_size=BATCH)


def members_of(
    owner: Int[Array, " num_latents"], most: int = MEMBERS
) -> Int[Array, "num_latents most"]:
    """Returns the first atoms that each atom owns, a row each, filled up with num_latents, which is
    also the owner, of (num_latents,), of atoms that have none.
    """
    num_latents = len(owner)
    order = jnp.argsort(owner, stable=True)
    rank = arange(num_latents) - jnp.searchsorted(owner[order], owner[order])
    return (
        jnp.full((num_latents, most), num_latents)
        .at[owner[order], rank]
        .set(order, mode="drop")
    )


def common_factor(
    rays: Float[Array, "rays input_dim"], exists: Bool[Array, " rays"]
) -> Factor:
    """Returns the common factor p of unit rays, and what is left of each without it.

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
    ratios = products[:, :, None] * products[:, None, :]
    ratios = ratios / maximum(products, _LEAST_COSINE)
    squares = jnp.sum(where(triples, ratios, 0), axis=(1, 2))
    squares = squares / maximum(jnp.sum(triples, axis=(1, 2)), 1)
    loading = jnp.sqrt(jnp.clip(squares, _RIDGE, 1))
    system = where(pairs, products, 0) + jnp.diag(where(exists, _RIDGE, 1))
    factor = jnp.linalg.solve(system, where(exists, loading, 0)) @ rays
    common = unit_atoms(factor[:, None])[0][:, 0]
    rest = rays - jnp.outer(rays @ common, common)
    return Factor(common, rest, jnp.linalg.norm(rest, axis=1), loading)
