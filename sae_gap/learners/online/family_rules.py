"""The rules of families: each child is decorrelated from its parents, and four repairs mend what
this cannot.

README.md beside this file has the problem, the equations, the schedule and a table of the
thresholds. Here p and c are concepts of a parent and its child, and u and v are atoms. An atom is
on in a sample, which uses it, where its code is positive. Its ray is the mean of what it and the
atoms that it is compared with explain where it is on.

All atoms are treated at once, in arrays whose shapes do not depend on what is found. So the index
`num_latents` stands for "no atom": JAX reads the last atom in its place, which is then ignored, and
drops what is assigned to it.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.online.cooccurrence import Cooccurrence, conditional
from sae_gap.learners.online.decorrelation import chance_cosine, coherent_cosine, subtract_shared

# i includes j if it is on in this share of j's uses; the share is larger where i is on in many
# samples anyway.
INCLUDES = 0.8
# Atoms with fewer uses are not judged.
LEAST_USES = 6
# Two atoms are apart if each is on in less than this share of the other's uses.
APART = 0.5
# How many atoms of a family are looked at.
MEMBERS = 8
# Siblings share more than chance makes if their cosines, each and on average, are above this.
SIBLINGS = 0.1
# A parent is split only if its mean code beside its children is smaller than without them by more
# than this share. A pair is turned only if the ray of the new base is not longer than the other by
# as much.
DIFFER = 0.15
# Where a parent is without its children in at most this share of its uses, its own ray tells
# nothing.
ALONE = 0.05
# A parent whose loading on the common factor is above this is that factor, and is not split.
PURE = 0.93
# Atoms are a family if their mean loading on the common factor is above this; the loading of p + c
# is .71 where p and c are of one length.
LOADED = 0.6
# An atom whose cosine with the common factor is above this is that factor.
SAME = 0.9
# One ray contains another if its projection onto that is longer than this share of it.
CONTAINS = 0.75
# v is turned, or split from a lone child, only if the new base or the child is on in more than this
# share of v's uses.
TURNED = 0.4
# An atom with less than this share of the usual energy is idle, and free for another concept.
IDLE = 0.1
# A parent has this many times the uses of its child, lest two atoms that are always on together be
# each other's parent.
_MORE_USED = 1.02
# What is left of a unit ray without the common factor is an atom if it is longer than this.
_LEAST_REST = 0.1
# What keeps a common factor from being ill-posed: a ridge, the least cosine to divide by, and the
# least squared loading.
_RIDGE, _LEAST_COSINE, _LEAST_SQUARE = 0.01, 0.05, 0.01
# Families that are solved for at once.
_BATCH = 64
# An atom is parted only from one with more than this share of its energy.
_LEAST_ENERGY = 0.3
# A unit atom of which less than this length is left without its parent is of the same concept.
_LEAST_PARTED = 0.5


def decorrelate_children(
    dictionary: Float[Array, "input_dim num_latents"], counts: Cooccurrence, weight: float
) -> Float[Array, "input_dim num_latents"]:
    """Takes out of each atom j what it shares with those that include it,
    `s_j = Σ_i (d_i · d_j) d_i`, by `subtract_shared`.

    The sum is over the atoms i that include j, are used more often, and whose |cosine| with j is
    above chance. A negative cosine counts as well: beside an atom `p + c_1` the other children may
    be learned as `c_k - c_1`. Once these are c_k, the merged atom has smaller codes beside them
    than without them, by which `split_merged_parents` knows it.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      counts: the co-occurrence of its atoms.
      weight: the most of its coherence that an atom loses.

    Returns:
      (input_dim, num_latents), of unit atoms.
    """
    cosines = dictionary.T @ dictionary
    uses = jnp.diagonal(counts.together)
    above = (
        includes(counts) & (uses[:, None] > uses) & (jnp.abs(cosines) > chance_cosine(dictionary))
    )
    return subtract_shared(dictionary, dictionary @ jnp.where(above, cosines, 0), weight)


def rearrange(
    dictionary: Float[Array, "input_dim num_latents"],
    counts: Cooccurrence,
    idle: Float[Array, " num_latents"],
) -> tuple[
    Float[Array, "input_dim num_latents"], Bool[Array, " num_latents"], Float[Array, " num_latents"]
]:
    """Repairs what no decorrelation can: parents that are merged with a child, have no atom, are
    turned, or recur in a child.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      counts: the co-occurrence of its atoms.
      idle: `idle_energy`; atoms where it is finite are free for other concepts, the least first.

    Returns:
      The dictionary, which atoms moved, and `idle`, in which an atom of a concept that another atom
      has is 0.
    """
    moved = jnp.zeros(dictionary.shape[1], bool)
    dictionary, moved = split_merged_parents(dictionary, moved, counts, idle)
    dictionary, moved = add_missing_parents(dictionary, moved, counts, idle)
    dictionary, moved = turn_pairs(dictionary, moved, counts)
    dictionary, moved, twice = part_from_parents(dictionary, moved, counts)
    return dictionary, moved, jnp.where(twice, 0, idle)


def includes(counts: Cooccurrence) -> Bool[Array, "num_latents num_latents"]:
    """Whether i includes j, in row i and column j: `1 - P(i | j) < (1 - includes) (1 - P(i))`.

    P(i) is the share of all samples that use i. So an atom that is nearly always on does not
    include others by that alone.
    """
    given, uses = conditional(counts)
    least = 1 - (1 - INCLUDES) * (1 - uses / jnp.maximum(counts.number, 1))
    return (given > least[:, None]) & (uses >= LEAST_USES)


def parents(counts: Cooccurrence) -> Int[Array, " num_latents"]:
    """Each atom's parent, the least used of the atoms that include it and are used more often;
    num_latents where none is.
    """
    uses = jnp.diagonal(counts.together)
    fits = includes(counts) & (uses[:, None] > _MORE_USED * uses)
    return jnp.where(
        jnp.any(fits, axis=0),
        jnp.argmin(jnp.where(fits, uses[:, None], jnp.inf), axis=0),
        len(uses),
    )


def split_merged_parents(dictionary, moved, counts: Cooccurrence, idle):
    """Splits a parent whose atom is merged with one of its children, `v = p + c_1`.

    Its other children c_k are then learned as `p + c_k` less the part along v. They share
    `p - c_1`, they are apart, and beside them the code of v is smaller than without them, about
    half where p and c_1 are of one length. (If the children share something else, as those of a
    missing atom between v and them do, the codes of v are as large as ever.) The rays of the
    children, `p + c_k`, and v itself have the common factor p. It becomes the parent, what the rays
    have beside it becomes the children, and c_1 takes an idle atom. Where v is hardly ever alone
    there is no code to compare with, and it is split.

    A lone child c_2 that is on in many uses of v is split from it likewise, if the codes of v are
    large and an idle atom is free for c_1. Of two rays the common factor is their mean,
    `p + (c_1 + c_2) / 2`, and the children are opposite. But with three atoms for three concepts,
    signals whose codes vary tell the rest: the next rounds that solve find p, c_1 and c_2.
    """
    num_latents = dictionary.shape[1]
    given, uses = conditional(counts)
    names = jnp.arange(num_latents)
    parent = parents(counts)
    cosines = dictionary.T @ dictionary
    siblings = (parent[:, None] == parent) & (parent < num_latents) & (names[:, None] != names)
    alike = siblings & _apart(given) & (cosines > SIBLINGS)
    lone = jnp.zeros_like(uses).at[parent].add(1, mode="drop")[parent] == 1
    owner = jnp.where(jnp.any(alike, axis=0) | lone, parent, num_latents)
    children = _members(owner)
    is_child = children < num_latents

    def over_children(values):
        return jnp.zeros_like(uses).at[owner].add(values, mode="drop")

    both, size = counts.together[owner, names], _mean_codes(counts)
    beside = _mean_code(counts.products[owner, names], both, uses, counts.sums)
    times, total = over_children(both), over_children(both * beside)
    alone = 1 - over_children(uses) / jnp.maximum(uses, 1)
    without = (counts.sums - total) / jnp.maximum(uses - times, 1)
    smaller = total / jnp.maximum(times, 1) < (1 - DIFFER) * without
    short = _is_short(beside, size[owner], size, cosines[owner, names])
    # Where p and c are of the usual size, their sum is larger.
    large = size > jnp.nanmedian(jnp.where(uses >= LEAST_USES, size, jnp.nan))

    def split(v):
        own = jnp.minimum(children[v], num_latents - 1)
        pairs = is_child[v][:, None] & is_child[v] & ~jnp.eye(MEMBERS, dtype=bool)
        shared = jnp.sum(jnp.where(pairs, cosines[own[:, None], own], 0)) / jnp.maximum(
            jnp.sum(pairs), 1
        )
        rays = (
            dictionary[:, own] * counts.products[own, own]
            + dictionary[:, v, None] * counts.products[v, own]
        )
        rays = unit_atoms(jnp.concatenate([rays, dictionary[:, v, None]], axis=1))[0]
        exists = jnp.append(is_child[v], alone[v] > ALONE)
        common, rest, length, loading = _common_factor(rays, rays.T @ rays, exists)
        many = (jnp.sum(exists) >= 3) & (shared > SIBLINGS) & (smaller[v] | (alone[v] <= ALONE))
        often = times[v] > TURNED * uses[v]
        two = (
            (jnp.sum(is_child[v]) == 1)
            & exists[-1]
            & smaller[v]
            & often
            & large[v]
            & ~short[own[0]]
        )
        return (many | two) & (loading[-1] <= PURE), two, common, rest, length

    wanted, two, common, rest, length = lax.map(split, names, batch_size=_BATCH)
    # Not a parent and its own parent at once.
    wanted &= ~jnp.append(wanted, False)[parent]
    # The child that the parent was merged with takes an idle atom.
    lost = wanted & (alone > ALONE) & (length[:, -1] > _LEAST_REST)
    taken = wanted | jnp.append(wanted, False)[owner]
    spare = _idle_atoms(lost, jnp.where(taken, jnp.inf, idle))
    wanted &= ~two | (spare < num_latents)
    at_child = jnp.where(wanted[:, None] & (length[:, :-1] > _LEAST_REST), children, num_latents)
    dictionary, moved = _assign(dictionary, moved, at_child, _unit_columns(rest[:, :, :-1]))
    dictionary, moved = _assign(dictionary, moved, jnp.where(wanted, names, num_latents), common.T)
    return _assign(dictionary, moved, spare, _unit_columns(rest[:, :, -1:]))


def add_missing_parents(dictionary, moved, counts: Cooccurrence, idle):
    """Gives an atom to a parent that has none: p is never on without a child, and the atom of each
    child is `p + c_k`.

    Such atoms are coherent and apart. Each atom follows the most central one, whose coherences have
    the largest sum, among itself and those that it is coherent with. The followers of an atom that
    follows itself are a family if their mean loading on their common factor p is large; it is small
    where each is somewhat coherent with one atom, but not with the others. The atom that is p
    already takes the factor, or else an idle one, and the members keep what they have beside it.
    """
    num_latents = dictionary.shape[1]
    names = jnp.arange(num_latents)
    alike, cosines, able = _coherent_pairs(dictionary, moved, counts)
    central = jnp.sum(jnp.where(alike, cosines, 0), axis=0)
    leader = jnp.argmax(jnp.where(alike | (names[:, None] == names), central[:, None], -1), axis=0)
    leader = jnp.where(able & (leader[leader] == leader), leader, num_latents)
    members = _members(leader)
    is_member = members < num_latents

    def find(v):
        own = jnp.minimum(members[v], num_latents - 1)
        common, rest, length, loading = _common_factor(
            dictionary[:, own], cosines[own[:, None], own], is_member[v]
        )
        # Fewer than three members have no triples, and hence the least loadings.
        return (
            jnp.sum(jnp.where(is_member[v], loading, 0)) > LOADED * jnp.sum(is_member[v]),
            common,
            rest,
            length,
        )

    wanted, common, rest, length = lax.map(find, names, batch_size=_BATCH)
    in_family = jnp.append(wanted, False)[leader]
    close = jnp.where(moved[:, None], -1, dictionary.T @ common.T)
    has = wanted & (jnp.max(close, axis=0) > SAME)
    # An atom is the parent of one family, and of its own if it is in one.
    near = jnp.argmax(close, axis=0)
    near = _first_claims(
        jnp.where(has & ((leader[near] == names) | ~in_family[near]), near, num_latents)
    )
    claimed = jnp.zeros(num_latents, bool).at[near].set(True, mode="drop")
    spare = _idle_atoms(wanted & ~has, jnp.where(moved | claimed | in_family, jnp.inf, idle))
    at_parent = jnp.where(has, near, spare)
    at_member = jnp.where(
        (at_parent < num_latents)[:, None] & (length > _LEAST_REST), members, num_latents
    )
    # The parent comes last, since it may be one of the members.
    dictionary, moved = _assign(dictionary, moved, at_member, _unit_columns(rest))
    return _assign(dictionary, moved, at_parent, common.T)


def turn_pairs(dictionary, moved, counts: Cooccurrence):
    """Turns pairs `v = p + c`, which is on wherever p is, and `u = p - c`, which is on beside v
    where c is off.

    Where p and c are of one length, so are the codes of v and u where both are on: reconstruction
    and cosines cannot tell this pair from p and c, and it is as sparse. But the ray of u is p,
    which is shorter than that of v; if v were a parent, the ray of its child would be longer. The
    ray becomes u, the base of the pair, and what v has beside it becomes v.
    """
    num_latents = dictionary.shape[1]
    given, uses = conditional(counts)
    names = jnp.arange(num_latents)
    size, beside = (
        _mean_codes(counts),
        _mean_code(counts.products, counts.together, uses, counts.sums),
    )
    can = includes(counts) & (TURNED < given.T) & (uses[:, None] >= uses)
    can &= _is_short(beside, size[:, None], size, dictionary.T @ dictionary)
    score = jnp.where(can & ~(moved[:, None] | moved), given * given.T, 0)
    score = jnp.maximum(score, score.T)
    # Each is the other's best partner, so that no atom is in two pairs. Where either can be the
    # base, the first becomes it.
    u = jnp.argmax(score, axis=1)
    turns = (
        (jnp.max(score, axis=1) > 0)
        & (u[u] == names)
        & can[names, u]
        & ~(can[u, names] & (u < names))
    )
    base = unit_atoms(
        dictionary[:, u] * counts.products[u, u] + dictionary * counts.products[names, u]
    )[0]
    rest = dictionary - jnp.sum(dictionary * base, axis=0) * base
    turns &= jnp.linalg.norm(rest, axis=0) > _LEAST_REST
    dictionary, moved = _assign(dictionary, moved, jnp.where(turns, u, num_latents), base)
    return _assign(dictionary, moved, jnp.where(turns, names, num_latents), unit_atoms(rest)[0])


def part_from_parents(dictionary, moved, counts: Cooccurrence):
    """Takes a parent out of a child that is used in its place: `p + c` is an atom, and so is p,
    which is off where that is on.

    Such atoms are coherent and apart. The ray of the parent, its atom at the length of its mean
    code, is shorter than the child's, which contains it. Of several parents the one with the
    longest ray counts. An atom of which little would be left is of the parent's concept: it stays,
    and is free for another concept.

    Returns:
      The dictionary, which atoms moved, and which are free.
    """
    num_latents = dictionary.shape[1]
    names = jnp.arange(num_latents)
    size, energy = _mean_codes(counts), jnp.diagonal(counts.products)
    lies, cosines, _ = _coherent_pairs(dictionary, moved, counts)
    lies &= (
        (size[:, None] < size)
        & (cosines * size > CONTAINS * size[:, None])
        & (energy[:, None] > _LEAST_ENERGY * energy)
    )
    # No parent moves itself.
    lies &= ~jnp.any(lies, axis=0)[:, None]
    parent = dictionary[:, jnp.argmax(jnp.where(lies, size[:, None], -1), axis=0)]
    rest = dictionary - jnp.sum(dictionary * parent, axis=0) * parent
    parts, twice = jnp.any(lies, axis=0), jnp.linalg.norm(rest, axis=0) < _LEAST_PARTED
    dictionary, moved = _assign(
        dictionary, moved, jnp.where(parts & ~twice, names, num_latents), unit_atoms(rest)[0]
    )
    return dictionary, moved, parts & twice


def usual_energy(squares: Float[Array, " num_latents"]) -> Float[Array, ""]:
    """The median energy Σ z² of the atoms that have any; 0 where none has."""
    return jnp.nan_to_num(jnp.nanmedian(jnp.where(squares > 0, squares, jnp.nan)))


def idle_energy(squares: Float[Array, " num_latents"]) -> Float[Array, " num_latents"]:
    """The energy of idle atoms, which have less than the share `idle` of the usual one; infinity
    for others.
    """
    return jnp.where((squares > 0) & (squares >= IDLE * usual_energy(squares)), jnp.inf, squares)


def _mean_code(products, both, uses, sums):
    """The mean code of i beside j, where both are on, weighted by that of j:
    `z̄_ij = Σ z_i z_j / (P(i|j) Σ z_j)`.

    Args:
      products: Σ z_i z_j.
      both: the samples that use both.
      uses: those that use j.
      sums: Σ z_j.
    """
    return products / jnp.maximum(sums, jnp.finfo(sums.dtype).tiny) * uses / jnp.maximum(both, 1)


def _mean_codes(counts: Cooccurrence) -> Float[Array, " num_latents"]:
    """Each atom's mean code, weighted by itself, `z̄_i = Σ z_i² / Σ z_i`."""
    uses = jnp.diagonal(counts.together)
    return _mean_code(jnp.diagonal(counts.products), uses, uses, counts.sums)


def _is_short(beside, size, other, cosine):
    """Whether the ray of j, `z̄_ij d_i + z̄_j d_j`, is about as long as that of i or shorter; a
    child's is longer.

    Args:
      beside: z̄_ij, the mean code of i beside j.
      size: z̄_i.
      other: z̄_j.
      cosine: of the atoms i and j.
    """
    return beside**2 + other**2 + 2 * beside * other * cosine < ((1 + DIFFER) * size) ** 2


def _assign(dictionary, moved, places, atoms):
    """Puts atoms, the columns, in their places, and marks these as moved; drops an atom whose place
    is num_latents.
    """
    places = places.reshape(-1)
    return dictionary.at[:, places].set(atoms, mode="drop"), moved.at[places].set(True, mode="drop")


def _unit_columns(
    atoms: Float[Array, "families input_dim members"],
) -> Float[Array, "input_dim columns"]:
    """The atoms of all families at unit length, as columns."""
    return unit_atoms(jnp.moveaxis(atoms, 0, 1).reshape(atoms.shape[1], -1))[0]


def _apart(given):
    """Which pairs are apart: neither is on in the share `apart` of the other's uses."""
    return jnp.maximum(given, given.T) < APART


def _coherent_pairs(dictionary, moved, counts: Cooccurrence):
    """Which pairs of judged atoms are coherent and apart, the cosines of all pairs, and which atoms
    are judged.
    """
    given, uses = conditional(counts)
    cosines = dictionary.T @ dictionary
    judged = (uses >= LEAST_USES) & ~moved
    pairs = judged[:, None] & judged & ~jnp.eye(len(uses), dtype=bool) & _apart(given)
    return pairs & (cosines > coherent_cosine(dictionary)), cosines, judged


def _members(owner: Int[Array, " num_latents"]) -> Int[Array, "num_latents members"]:
    """The first atoms that each atom owns, a row each, filled up with num_latents, the owner of
    those that have none.
    """
    num_latents = len(owner)
    order = jnp.argsort(owner, stable=True)
    rank = jnp.arange(num_latents) - jnp.searchsorted(owner[order], owner[order])
    return (
        jnp.full((num_latents, MEMBERS), num_latents).at[owner[order], rank].set(order, mode="drop")
    )


def _first_claims(places: Int[Array, " num_latents"]) -> Int[Array, " num_latents"]:
    """The places, with num_latents for those that an earlier one claims as well."""
    names = jnp.arange(len(places))
    first = jnp.full(len(places) + 1, len(places)).at[places].min(names)
    return jnp.where(first[places] == names, places, len(places))


def _idle_atoms(wanted, idle):
    """An idle atom for each that wants one, as long as there are any; else num_latents."""
    queue = jnp.argsort(idle)
    turn = jnp.cumsum(wanted) - 1
    return jnp.where(wanted & (idle[queue[turn]] < jnp.inf), queue[turn], len(idle))


def _common_factor(rays, products, exists):
    """The common factor p of unit rays, what each has beside it, how long that is, and the loadings
    on p.

    Rays that have nothing but p in common have the products `r_j · r_k = a_j a_k`, with the
    loadings `a_j = r_j · p`. These give a, and p is the combination `Σ_k β_k r_k` whose product
    with each r_j is a_j, by a solve with a ridge.
    """
    loading = _loadings(products, exists)
    system = jnp.where(exists[:, None] & exists, products, 0) + jnp.diag(
        jnp.where(exists, _RIDGE, 1)
    )
    common = unit_atoms((rays @ jnp.linalg.solve(system, jnp.where(exists, loading, 0)))[:, None])[
        0
    ]
    rest = rays - common * (common.T @ rays)
    return common[:, 0], rest, jnp.linalg.norm(rest, axis=0), loading


def _loadings(
    products: Float[Array, "some some"], exists: Bool[Array, " some"]
) -> Float[Array, " some"]:
    """The a of products `p_jk = a_j a_k` off the diagonal:
    `a_j² = mean over k and l of p_jk p_jl / p_kl`.
    """
    other = ~jnp.eye(len(exists), dtype=bool) & exists[:, None] & exists
    triples = other[:, :, None] & other[:, None, :] & other[None]
    ratios = products[:, :, None] * products[:, None, :] / jnp.maximum(products, _LEAST_COSINE)
    squares = jnp.sum(jnp.where(triples, ratios, 0), axis=(1, 2)) / jnp.maximum(
        jnp.sum(triples, axis=(1, 2)), 1
    )
    return jnp.sqrt(jnp.clip(squares, _LEAST_SQUARE, 1))
