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

from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.online.decorrelation import chance, coherent, take_out

# Of `included`, the share and the least number of uses of what is included; P(j | i) above which j becomes the base of i.
INCLUDED, USED, SWAPPED = 0.8, 6, 0.6
# P(i | j) and P(j | i) up to which two atoms are used apart.
APART = 0.5
# Members of a family that are looked at; coherence from which children share something.
MEMBERS, SHARED = 8, 0.1
# Share of a parent's uses above which those without its children show what it is by itself; loading on the common atom above
# which it is the common atom already, and is not split.
ALONE, PURE = 0.05, 0.93
# A parent is split only if its mean code beside its children is less than this share of its mean code without them.
LESS = 0.85
# Least mean loading of a family's members on their common atom; that of p + c_k is .71 where p and c_k are of one length.
LOADED = 0.6
# Cosine above which an atom is the parent that is sought; cosine above which an atom is overwritten by the child that was lost.
FOUND, NEAR = 0.9, 0.5
# An atom of less energy than this share of the usual one is free for another concept.
IDLE = 0.1


class Company(NamedTuple):
    """Who is used with whom in samples with codes Z.

    Entry (i, j) of `together` counts those that use both, `products` is ZᵀZ, and `sums` has the sum of each atom's codes.
    `number` is how many samples were coded, even those that use no atom; the caller sets it, since `count` also sees padding.
    """

    together: Float[Array, "num_latents num_latents"]
    products: Float[Array, "num_latents num_latents"]
    sums: Float[Array, " num_latents"]
    number: Float[Array, ""]


def nobody(num_latents: int, dtype) -> Company:
    """Counts that have not begun."""
    zeros = jnp.zeros((num_latents, num_latents), dtype)
    return Company(zeros, zeros, zeros[0], jnp.zeros((), dtype))


def count(company: Company, places: Int[Array, "n slots"], codes: Float[Array, "n slots"]) -> Company:
    """The counts with some samples more, whose codes are given by slot."""

    def add(w, company):
        row, on = places[:, w, None], (codes[:, w, None] > 0) & (codes > 0)
        product = codes[:, w, None] * codes
        together = company.together.at[row, places].add(on.astype(codes.dtype))
        return company._replace(together=together, products=company.products.at[row, places].add(product))

    company = company._replace(sums=company.sums.at[places].add(codes))
    return lax.fori_loop(0, codes.shape[1], add, company)


def forget(company: Company, moved: Bool[Array, " num_latents"]) -> Company:
    """The counts without those of atoms that moved, which are no longer theirs."""
    kept = ~(moved[:, None] | moved)
    together, products = (jnp.where(kept, table, 0) for table in (company.together, company.products))
    return company._replace(together=together, products=products, sums=jnp.where(moved, 0, company.sums))


def shares(company: Company) -> tuple[Float[Array, "num_latents num_latents"], Float[Array, " num_latents"]]:
    """P(i | j) in row i and column j, zero on the diagonal, and how often each atom was used."""
    uses = jnp.diagonal(company.together)
    share = company.together / jnp.maximum(uses, 1)
    return share - jnp.diag(jnp.diagonal(share)), uses


def included(company: Company) -> Bool[Array, "num_latents num_latents"]:
    """Whether i includes j, in row i and column j: `1 - P(i | j) < (1 - INCLUDED) (1 - P(i))`, P(i) its share of all samples.

    So an atom that is on nearly always includes none by that alone.
    """
    share, uses = shares(company)
    least = 1 - (1 - INCLUDED) * (1 - uses / jnp.maximum(company.number, 1))
    return (share > least[:, None]) & (uses >= USED)


def push(
    dictionary: Float[Array, "input_dim num_latents"], company: Company, weight: float
) -> Float[Array, "input_dim num_latents"]:
    """Takes out of each atom what it shares with those that include it, by `take_out` of `s_j = Σ_i (d_i · d_j) d_i`.

    The sum is over the atoms i that include j, are used more often, and whose cosine with it, positive or negative, is larger
    than that of unrelated atoms. Beside an atom that is a parent and its child in one, `p + c_1`, the other children may be
    learned as `c_k - c_1`, whose cosine with it is negative. Once that is taken out, the merged atom has smaller codes beside
    c_k than without it, by which `rearrange` knows the merged atom and splits it.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      company: the counts.
      weight: share of the coherence that is taken out, at most.

    Returns:
      (input_dim, num_latents), of unit atoms.
    """
    gram = dictionary.T @ dictionary
    uses = jnp.diagonal(company.together)
    includes = included(company) & (uses[:, None] > uses)
    # The diagonal of the shares is zero, so that nothing includes itself.
    shared = jnp.where(includes & (jnp.abs(gram) > chance(dictionary)), gram, 0)
    return take_out(dictionary, dictionary @ shared, weight)


def rearrange(
    dictionary: Float[Array, "input_dim num_latents"], company: Company, idle: Float[Array, " num_latents"]
) -> tuple[Float[Array, "input_dim num_latents"], Bool[Array, " num_latents"]]:
    """Puts right what no push can: a parent that is a child as well, or has no atom, and a base that is the wrong one.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      company: the counts.
      idle: `idle_energy`; those of which it is finite may be taken for other concepts, the least first.

    Returns:
      The dictionary, and which atoms moved.
    """
    dictionary, moved = _centre(dictionary, company, idle)
    dictionary, moved = _found(dictionary, company, idle, moved)
    return _swap(dictionary, company, moved)


def _swap(dictionary, company, taken):
    """Makes u the base of v where v includes u and u is on in most uses of v: fewer atoms a sample say the same.

    The mean signal where u is on becomes u, and v what it has beside that.
    """
    num_latents = dictionary.shape[1]
    share, uses = shares(company)
    names = jnp.arange(num_latents)
    can = included(company) & (share.T > SWAPPED) & (uses[:, None] >= uses)
    score = jnp.where(can & ~(taken[:, None] | taken), share * share.T, 0)
    either = jnp.maximum(score, score.T)
    # Pairs of which each is the other's best, so that no atom is in two.
    u = jnp.argmax(either, axis=1)
    swaps = (jnp.max(either, axis=1) > 0) & (u[u] == names) & can[names, u] & ~(can[u, names] & (u < names))
    base = unit_atoms(dictionary[:, u] * company.products[u, u] + dictionary * company.products[names, u])[0]
    left = dictionary - jnp.sum(dictionary * base, axis=0) * base
    swaps = swaps & (jnp.linalg.norm(left, axis=0) > 0.05)
    target_u, target_v = jnp.where(swaps, u, num_latents), jnp.where(swaps, names, num_latents)
    dictionary = dictionary.at[:, target_u].set(base, mode="drop").at[:, target_v].set(unit_atoms(left)[0], mode="drop")
    return dictionary, taken.at[target_u].set(True, mode="drop").at[target_v].set(True, mode="drop")


def _parents(company):
    """The least used atom of those that include each and are used at least 2 % more often, or -1."""
    uses = jnp.diagonal(company.together)
    fits = included(company) & (uses[:, None] > 1.02 * uses)
    return jnp.where(jnp.any(fits, axis=0), jnp.argmin(jnp.where(fits, uses[:, None], jnp.inf), axis=0), -1)


def _centre(dictionary, company, idle):
    r"""Splits parents that are one of their children as well, `v = p + c_1`.

    Such an atom is on with each other child, whose atom then lies along `p + c_k` less its part along v: they all share
    `p - c_1`, are coherent, and are used apart; and v has smaller codes beside them, about half where p and c_1 are of one
    length. Children that share something else, as those of a missing atom between v and them do, leave the codes of v as they
    are; where v is hardly ever used without them, there is nothing to compare with, and it is split. The rays `r_k = p + c_k`,
    the mean signals of their users, and v itself, have the common factor p. Children are what their rays have beside it.
    """
    num_latents = dictionary.shape[1]
    share, uses = shares(company)
    names = jnp.arange(num_latents)
    parent = _parents(company)
    gram = dictionary.T @ dictionary
    siblings = (parent[:, None] == parent) & (parent >= 0) & (names[:, None] != names)
    alike = siblings & _apart(share) & (gram > SHARED)
    owner = jnp.where(jnp.any(alike, axis=0), parent, num_latents)
    children = _rows(owner)
    is_child = children < num_latents
    tiny = jnp.finfo(dictionary.dtype).tiny

    def over_children(values):
        return jnp.zeros_like(uses).at[owner].add(values, mode="drop")

    # The mean code of v in the uses of child k, weighted by z_k, is Σ z_v z_k / Σ z_k; it is zero in those without v.
    codes = uses * company.products[owner, names] / jnp.maximum(company.sums, tiny)
    times, beside = over_children(company.together[owner, names]), over_children(codes)
    alone = 1 - over_children(uses) / jnp.maximum(uses, 1)
    without = (company.sums - beside) / jnp.maximum(uses - times, 1)
    less = (beside / jnp.maximum(times, 1) < LESS * without) | (alone <= ALONE)

    def split(v):
        own = jnp.minimum(children[v], num_latents - 1)
        among = gram[own[:, None], own]
        pairs = is_child[v][:, None] & is_child[v] & ~jnp.eye(MEMBERS, dtype=bool)
        shared = jnp.sum(jnp.where(pairs, among, 0)) / jnp.maximum(jnp.sum(pairs), 1)
        rays = dictionary[:, own] * company.products[own, own] + dictionary[:, v, None] * company.products[v, own]
        rays = unit_atoms(jnp.concatenate([rays, dictionary[:, v, None]], axis=1))[0]
        exists = jnp.append(is_child[v], alone[v] > ALONE)
        common, left, length, loading = _factor(rays, rays.T @ rays, exists)
        enough = (jnp.sum(exists) >= 3) & (shared > SHARED) & less[v]
        return enough & (loading[-1] <= PURE), common, left, length

    wanted, common, left, length = lax.map(split, names, batch_size=64)
    # Not a parent and its own parent at once.
    wanted = wanted & ~(wanted[jnp.maximum(parent, 0)] & (parent >= 0))
    fresh = _units(left)
    at_child = jnp.where(wanted[:, None] & (length[:, :-1] > 0.1), children, num_latents)
    at_parent = jnp.where(wanted, names, num_latents)
    moved = jnp.zeros(num_latents, bool).at[at_child].set(True, mode="drop").at[at_parent].set(True, mode="drop")
    # The child that the parent was as well takes the atom that is nearest to it, or else one of hardly any use.
    lost = wanted & (alone > ALONE) & (length[:, -1] > 0.2)
    close = jnp.where(moved[:, None], -1, dictionary.T @ fresh[:, :, -1])
    seats = _seats(lost, jnp.where(moved, jnp.inf, idle))
    at_lost = _once(jnp.where(lost, jnp.where(jnp.max(close, axis=0) > NEAR, jnp.argmax(close, axis=0), seats), num_latents))
    dictionary = dictionary.at[:, at_lost].set(fresh[:, :, -1], mode="drop")
    dictionary = dictionary.at[:, at_child].set(fresh[:, :, :-1], mode="drop").at[:, at_parent].set(common.T, mode="drop")
    return dictionary, moved.at[at_lost].set(True, mode="drop")


def _found(dictionary, company, idle, taken):
    r"""Gives a parent an atom that has none, because it is never on without a child and each child's atom is `p + c_k`.

    Such atoms are coherent and used apart. Each points to the atom, of those that are coherent with it and itself, whose
    coherences add up to most. Those that point to one that points to itself are a family, if their common factor p makes up
    much of them: atoms that are each a little like one, and not like each other, are none. The factor takes the atom that is
    it already, or else one of hardly any use; the members keep what they have beside it.
    """
    num_latents = dictionary.shape[1]
    share, uses = shares(company)
    names = jnp.arange(num_latents)
    gram = dictionary.T @ dictionary
    able = (uses >= USED) & ~taken
    alike = able[:, None] & able & _apart(share) & (names[:, None] != names)
    alike &= gram > coherent(dictionary)
    central = jnp.sum(jnp.where(alike, gram, 0), axis=0)
    leader = jnp.argmax(jnp.where(alike | (names[:, None] == names), central[:, None], -1), axis=0)
    leader = jnp.where(able & (leader[leader] == leader), leader, num_latents)
    members = _rows(leader)
    is_member = members < num_latents

    def find(v):
        own = jnp.minimum(members[v], num_latents - 1)
        common, left, length, loading = _factor(dictionary[:, own], gram[own[:, None], own], is_member[v])
        # Fewer than three have loadings of .1.
        carries = jnp.sum(jnp.where(is_member[v], loading, 0)) > LOADED * jnp.sum(is_member[v])
        return carries, common, left, length

    wanted, common, left, length = lax.map(find, names, batch_size=64)
    in_family = (leader < num_latents) & wanted[jnp.minimum(leader, num_latents - 1)]
    close = jnp.where(taken[:, None], -1, dictionary.T @ common.T)
    has = wanted & (jnp.max(close, axis=0) > FOUND)
    # An atom is the parent of one family, its own if it is in one.
    near = jnp.argmax(close, axis=0)
    near = _once(jnp.where(has & ((leader[near] == names) | ~in_family[near]), near, num_latents))
    claimed = jnp.zeros(num_latents, bool).at[near].set(True, mode="drop")
    seats = _seats(wanted & ~has, jnp.where(taken | claimed | in_family, jnp.inf, idle))
    at_parent = jnp.where(has, near, seats)
    wanted = at_parent < num_latents
    at_member = jnp.where(wanted[:, None] & (length > 0.1), members, num_latents)
    # Last the parent, which may be one of its members.
    dictionary = dictionary.at[:, at_member].set(_units(left), mode="drop").at[:, at_parent].set(common.T, mode="drop")
    return dictionary, taken.at[at_member].set(True, mode="drop").at[at_parent].set(True, mode="drop")


def _apart(share):
    """Which pairs are used together in fewer than half of the uses of each of the two."""
    return jnp.maximum(share, share.T) < APART


def _rows(owner: Int[Array, " num_latents"]) -> Int[Array, "num_latents members"]:
    """Atoms by the one that they belong to, a row each, filled up with num_latents, to which belong those of no one."""
    num_latents = len(owner)
    order = jnp.argsort(owner, stable=True)
    rank = jnp.arange(num_latents) - jnp.searchsorted(owner[order], owner[order])
    return jnp.full((num_latents, MEMBERS), num_latents).at[owner[order], rank].set(order, mode="drop")


def _factor(rays, products, exists):
    """The common factor p of unit rays, what they have beside it and how long that is, and their loadings.

    Off the diagonal rays of one common factor have the Gram matrix `r_j · r_k = a_j a_k`, with `a_j = r_j · p`; from which a,
    and with it p as the combination `Σ_k β_k r_k` that has these products, by a solve with a ridge of .01.
    """
    loading = _loadings(products, exists)
    system = jnp.where(exists[:, None] & exists, products, 0) + jnp.diag(jnp.where(exists, 1e-2, 1))
    common = unit_atoms((rays @ jnp.linalg.solve(system, jnp.where(exists, loading, 0)))[:, None])[0]
    left = rays - common * (common.T @ rays)
    return common[:, 0], left, jnp.linalg.norm(left, axis=0), loading


def _units(atoms: Float[Array, "families input_dim members"]) -> Float[Array, "input_dim families members"]:
    """The atoms at unit length, as columns of a dictionary are assigned."""
    families, input_dim, members = atoms.shape
    return unit_atoms(jnp.swapaxes(atoms, 1, 2).reshape(-1, input_dim).T)[0].reshape(input_dim, families, members)


def usual_energy(squares: Float[Array, " num_latents"]) -> Float[Array, ""]:
    """The median energy Σ z² of the atoms that have any; 0 where none has."""
    return jnp.nan_to_num(jnp.nanmedian(jnp.where(squares > 0, squares, jnp.nan)))


def idle_energy(squares: Float[Array, " num_latents"]) -> Float[Array, " num_latents"]:
    """The energy of idle atoms, which have less than `IDLE` of the usual one; of others infinity."""
    return jnp.where((squares > 0) & (squares >= IDLE * usual_energy(squares)), jnp.inf, squares)


def _once(places: Int[Array, " num_latents"]) -> Int[Array, " num_latents"]:
    """The places without those that an earlier one names as well, which become num_latents."""
    names = jnp.arange(len(places))
    first = jnp.full(len(places) + 1, len(places)).at[places].min(names)
    return jnp.where(first[places] == names, places, len(places))


def _seats(wanted, idle):
    """An idle atom for each that wants one, as long as there are any; else num_latents."""
    queue = jnp.argsort(idle)
    turn = jnp.cumsum(wanted) - 1
    return jnp.where(wanted & (idle[queue[turn]] < jnp.inf), queue[turn], len(idle))


def _loadings(products: Float[Array, "some some"], exists: Bool[Array, " some"]) -> Float[Array, " some"]:
    """The a of `products[j, k] = a_j a_k` off the diagonal: `a_j² = mean of products[j, k] products[j, l] / products[k, l]`.

    No product below .05 divides, and the squares are kept within .01 and 1.
    """
    some = len(exists)
    other = ~jnp.eye(some, dtype=bool) & exists[:, None] & exists
    triples = other[:, :, None] & other[:, None, :] & other[None]
    ratios = products[:, :, None] * products[:, None, :] / jnp.maximum(products, 0.05)
    squares = jnp.sum(jnp.where(triples, ratios, 0), axis=(1, 2)) / jnp.maximum(jnp.sum(triples, axis=(1, 2)), 1)
    return jnp.sqrt(jnp.clip(squares, 0.01, 1))


__all__ = ["Company", "count", "forget", "idle_energy", "included", "nobody", "push", "rearrange", "shares", "usual_energy"]
