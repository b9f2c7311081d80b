"""The rules of families, on families whose codes and whose repair can be worked out on paper.

A family has orthonormal concepts: a parent p and children c_1 … c_4, which are on with p one at a
time. All tests have atoms of one shape, so that their program is compiled once: rows of zeros are
no dimensions, and atoms that a test does not name are orthogonal to all others and used by
themselves.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import family_rules
from sae_gap.learners.online.cooccurrence import Cooccurrence, drop_atoms

ROWS, WIDTH = 200, 14
# Unrelated directions, the last of which are left to the atoms that fill up.
WIDE, NARROW = (
    np.pad(
        np.linalg.qr(np.random.default_rng(0).standard_normal((dim, 28)))[0],
        ((0, ROWS - dim), (0, 0)),
    )
    for dim in (ROWS, 60)
)
HALF = 0.5**0.5


@jax.jit
def _rearrange(dictionary, counts):
    idle = family_rules.idle_energy(jnp.diagonal(counts.products))
    found, moved, idle = family_rules.rearrange(dictionary, counts, idle)
    return found, moved, drop_atoms(counts, moved), idle


decorrelate = jax.jit(
    lambda dictionary, counts: family_rules.decorrelate_children(dictionary, counts, 0.5)
)
part = jax.jit(
    lambda dictionary, moved, counts: family_rules.part_from_parents(dictionary, moved, counts)
)
turn = jax.jit(lambda dictionary, moved, counts: family_rules.turn_pairs(dictionary, moved, counts))


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=0)


def filled(atoms):
    return np.concatenate(
        [atoms, (WIDE if atoms[100:].any() else NARROW)[:, atoms.shape[1] - WIDTH :]], axis=1
    )


def counted(codes, number=None):
    """The counts of dense codes, beside 100 samples for each atom that fills up, among four times
    as many.
    """
    spare = WIDTH - codes.shape[1]
    codes = np.pad(codes, ((0, 100 * spare), (0, spare))).astype(np.float32)
    codes[len(codes) - 100 * spare :, WIDTH - spare :] = 1.5 * np.tile(np.eye(spare), (100, 1))
    on = (codes > 0).astype(np.float32)
    number = 4 * len(codes) if number is None else number
    return Cooccurrence(
        *map(jnp.asarray, (on.T @ on, codes.T @ codes, codes.sum(axis=0), np.float32(number)))
    )


def of_tables(together, number=1_000):
    """The counts of codes that are all 1."""
    spare = WIDTH - len(together)
    table = jnp.asarray(
        np.pad(np.asarray(together, np.float32), (0, spare))
        + np.diag([0] * len(together) + [60] * spare)
    )
    return Cooccurrence(table, table, jnp.diagonal(table), jnp.float32(number))


def rearranged(atoms, codes, number=None):
    """The atoms after the rules, and which of them moved; no atom that fills up does."""
    found, moved, *_ = _rearrange(jnp.asarray(filled(atoms), jnp.float32), counted(codes, number))
    own = atoms.shape[1]
    np.testing.assert_allclose(np.asarray(found)[:, ~moved], filled(atoms)[:, ~moved], atol=1e-6)
    assert not moved[own:].any()
    return np.asarray(found)[:, :own], np.flatnonzero(moved).tolist()


def samples(*patterns, times=100):
    return np.tile(np.array(patterns, float), (times, 1))


def merged_family(frame=NARROW):
    """Atoms `(p + c_1) / √2` and `unit(c_k + (p - c_1) / 2)`, an atom without a use, and the codes
    of `p + c_1 … p + c_4`.
    """
    p, c = frame[:, 0], frame[:, 1:5].T
    atoms = np.stack(
        [HALF * (p + c[0]), *(unit(each + (p - c[0]) / 2) for each in c[1:]), frame[:, 5]], axis=1
    )
    codes = samples([2 * HALF, 0, 0, 0, 0], *([HALF, *row, 0] for row in 1.5**0.5 * np.eye(3)))
    np.testing.assert_allclose(codes[:4] @ atoms.T, [p + each for each in c], atol=1e-12)
    return atoms, codes


def repaired(frame=NARROW):
    """What four rays `p + c_k` tell of their common factor and of what they have beside it:
    `4 p + Σ c` and `c_k - Σ c / 4`.
    """
    p, c = frame[:, 0], frame[:, 1:5]
    return unit(4 * p + c.sum(axis=1)), unit(c - c.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("place", ["unused", "idle", "none", "a child"])
def test_a_parent_that_is_one_of_its_children_as_well_is_split(place):
    """And the child that it was takes an atom without a use or of little, if there is any but its
    siblings.
    """
    atoms, codes = merged_family()
    if place == "idle":
        codes[:20, 4] = 0.5
    elif place != "unused":
        codes = np.concatenate([codes, samples([0, 0, 0, 0, 1.5])])
    if place == "a child":
        # On in 8 samples.
        codes = np.delete(codes, np.flatnonzero(codes[:, 3])[8:], axis=0)
    found, moved = rearranged(atoms, codes)
    parent, children = repaired()
    np.testing.assert_allclose(found[:, :4], np.column_stack([parent, children[:, 1:]]), atol=1e-5)
    there = place in ("unused", "idle")
    assert moved == [0, 1, 2, 3] + [4] * there
    if there:
        np.testing.assert_allclose(found[:, 4], children[:, 0], atol=1e-5)


@pytest.mark.parametrize("case", ["free", "none free", "seldom", "small", "as large"])
def test_of_two_children_one_is_split_from_the_parent_that_is_the_other(case):
    """Signals `p + c_1` and, as often, `p + c_2`: p is taken for their mean, and the children for
    opposite directions.
    """
    p, c = NARROW[:, 0], NARROW[:, 1:3].T
    atoms = np.stack([HALF * (p + c[0]), unit(c[1] + (p - c[0]) / 2), NARROW[:, 3]], axis=1)
    codes = samples([2 * HALF, 0, 0], [HALF, 1.5**0.5, 0]) * (1 if case == "small" else 2)
    if case == "none free":
        codes = np.concatenate([codes, samples([0, 0, 1.5])])
    elif case == "seldom":
        # In a third of the uses of the parent, whose codes alone are not so large that the child
        # would be short beside them.
        codes = np.concatenate([codes, samples([3 * HALF, 0, 0])])
    elif case == "as large":
        codes[:, 0] = 4 * HALF
    found, moved = rearranged(atoms, codes)
    assert moved == ([0, 1, 2] if case == "free" else [])
    if case == "free":
        wanted = np.stack([2 * p + c[0] + c[1], c[1] - c[0], c[0] - c[1]], axis=1)
        np.testing.assert_allclose(found, unit(wanted), atol=1e-5)


REASONS = "not merged, large codes, on together, not alike, not included, rare, off, two rays"


@pytest.mark.parametrize("case", [*REASONS.split(", "), "two pairs"])
def test_a_parent_is_split_for_good_reasons_alone(case):
    atoms, codes = merged_family()
    number = None
    if case == "not merged":
        atoms[:, :4] = NARROW[:, [0, 2, 3, 4]]
    elif case == "large codes":
        # .92 of the code without children.
        codes[codes[:, 0] < 1, 0] = 1.3
    elif case == "on together":
        alone = samples([2 * HALF, 0, 0, 0, 0], times=300)
        codes = np.concatenate([alone, samples(*([HALF, *row, 0] for row in 1 - np.eye(3)))])
    elif case == "not alike":
        # A mean cosine of .09.
        atoms[:, 1:4] = unit(NARROW[:, 2:5] + (0.09 / 0.91) ** 0.5 * NARROW[:, 6:7])
    elif case == "not included":
        # The parent is on in 77 % of each child's uses.
        codes = np.concatenate([codes, samples(*([0, *row, 0] for row in np.eye(3)), times=30)])
    elif case == "rare":
        codes = codes[:20]
    elif case == "off":
        # Off in 18 % of them, and of one size where it is on.
        codes[codes[:, 0] > 0, 0] = 1
        others = samples(*([0, *row, 0] for row in 1.5**0.5 * np.eye(3)), times=22)
        codes = np.concatenate([codes, others])
        number = 1e6
    elif case == "two rays":
        # Never alone, the parent has none itself.
        codes = codes[codes[:, 1:3].sum(axis=1) > 0]
    else:
        # Four children, of which two are alike and the other two: by a mean cosine of .093, and a
        # loading of .91.
        atoms = NARROW[:, :5].copy()
        atoms[:, [2, 4]] = 0.28 * atoms[:, [1, 3]] + (1 - 0.28**2) ** 0.5 * atoms[:, [2, 4]]
        codes = samples([1, 0, 0, 0, 0], *([0.5, *row] for row in np.eye(4)))
    assert rearranged(atoms, codes, number)[1] == []


@pytest.mark.parametrize(("cosine", "moves"), [(0.13, []), (0.2, [0, 1, 2, 3, 4])])
def test_a_parent_that_is_the_common_factor_is_kept(cosine, moves):
    """Children of some cosine, beside which all codes are .8: with rays `p + d_k`, p has a loading
    of 1 / √(1 + cosine).
    """
    atoms = np.column_stack(
        [NARROW[:, 0], cosine**0.5 * NARROW[:, 5:6] + (1 - cosine) ** 0.5 * NARROW[:, 1:5]]
    )
    beside = [[0.8, *row] for row in 0.8 * np.eye(4)]
    assert rearranged(atoms, samples([1, 0, 0, 0, 0], *beside))[1] == moves
    # Where p is never alone, it is what the rays tell, whatever it was; and it was no child, which
    # would want an atom.
    unused = np.column_stack([atoms, NARROW[:, 6]])
    found, moved = rearranged(unused, np.pad(samples(*beside), ((0, 0), (0, 1))))
    np.testing.assert_allclose(
        found[:, 0], unit(4 * atoms[:, 0] + atoms[:, 1:].sum(axis=1)), atol=1e-5
    )
    assert moved == [0, 1, 2, 3, 4]


def test_of_many_children_the_first_are_looked_at():
    p, first, c = NARROW[:, :1], NARROW[:, 1:2], NARROW[:, 2:11]
    atoms = np.concatenate([unit(c + (p - first) / 2), HALF * (p + first)], axis=1)
    codes = samples([0] * 9 + [2 * HALF], *([*row, HALF] for row in 1.5**0.5 * np.eye(9)))
    found, moved = rearranged(atoms, codes)
    assert moved == [*range(8), 9]
    assert p[:, 0] @ found[:, 9] > 0.9


def test_of_a_parent_and_its_own_parent_one_is_split_at_a_time():
    """Atom 0 is always on, and one of 1, 2 and 3, which are alike; beside 1 one of 4, 5 and 6,
    which are alike.
    """
    atoms = NARROW[:, :7].copy()
    for some, shared in (([1, 2, 3], 7), ([4, 5, 6], 8)):
        atoms[:, some] = unit(atoms[:, some] + 0.8 * NARROW[:, shared : shared + 1])
    others = np.eye(6)
    codes = samples(
        *([1, *others[i] + (others[j] if i == 0 else 0)] for i in range(3) for j in (3, 4, 5))
    )
    assert rearranged(atoms, codes)[1] == [0, 1, 2, 3]


def lone_children(frame, extra):
    """Atoms `(p + c_k) / √2` and others beside them, and codes that use each of the four by
    itself.
    """
    atoms = np.concatenate([HALF * (frame[:, :1] + frame[:, 1:5]), extra], axis=1)
    return atoms, samples(*np.eye(4, atoms.shape[1]))


PLACES = "unused, idle, there, there and on, busy, idle child, pair, on together"


@pytest.mark.parametrize("case", [*PLACES.split(", "), "coherent by chance"])
def test_a_parent_without_an_atom_gets_one(case):
    """One without a use or of little, if none is the parent already; but two atoms are no family,
    nor are those on together.
    """
    frame = NARROW if case == "coherent by chance" else WIDE
    parent, children = repaired(frame)
    there = unit(parent + 0.4 * frame[:, 5])
    atoms, codes = lone_children(frame, (there if "there" in case else frame[:, 5])[:, None])
    if case == "idle":
        codes[:20, 4] = 0.3
    elif case == "there":
        codes = np.concatenate([codes, samples([0, 0, 0, 0, 1])])
    elif case == "there and on":
        # In 60 % of the uses of its children it is not apart from them.
        codes[:240, 4] = 1
    elif case in ("busy", "idle child"):
        codes = np.concatenate([codes, samples([0, 0, 0, 0, 1])])
        # A member is not taken, little as it is used.
        codes[:320, 3] *= case == "busy"
    elif case == "pair":
        codes[:, 2:4] = 0
    elif case == "on together":
        codes = samples(*([*row, 0] for row in 1 - np.eye(4)))
    found, moved = rearranged(atoms, codes)
    if case in ("unused", "idle", "there", "there and on"):
        assert moved == [0, 1, 2, 3, 4]
        # An atom that is there, and apart, is one more ray of the family.
        np.testing.assert_allclose(
            found, np.column_stack([children, parent]), atol=0.4 if case == "there" else 1e-5
        )
    else:
        assert moved == []


@pytest.mark.parametrize(("cosine", "moves"), [(0.45, []), (0.66, [0, 1, 2, 3, 4])])
def test_atoms_that_are_alike_to_one_of_them_are_a_family_if_their_mean_loading_is_large(
    cosine, moves
):
    """Four atoms beside their common factor: loadings of 1 and four times the cosine, on average
    .56 or .73.
    """
    around = cosine * WIDE[:, :1] + (1 - cosine**2) ** 0.5 * WIDE[:, 1:5]
    atoms = np.concatenate([WIDE[:, :1], around], axis=1)
    assert rearranged(atoms, samples(*np.eye(5)))[1] == moves


@pytest.mark.parametrize(
    ("there", "unused", "moves"), [(0, 1, 5), (0, 2, 10), (1, 0, 5), (1, 1, 10)]
)
def test_no_two_families_take_one_atom(there, unused, moves):
    """The parent of the second may have an atom without a use, which the first may not take."""
    first, second = (HALF * (WIDE[:, a : a + 1] + WIDE[:, a + 1 : a + 5]) for a in (0, 5))
    parent = unit(second.sum(axis=1, keepdims=True) + 0.1 * WIDE[:, 10:11])
    atoms = np.concatenate([first, second, parent[:, :there], WIDE[:, 11 : 11 + unused]], axis=1)
    found, moved = rearranged(atoms, samples(*np.eye(8, atoms.shape[1])))
    assert len(moved) == moves
    assert ((WIDE[:, [0, 5]].T @ found).max(axis=1) > 0.85).sum() == moves // 5


def test_an_atom_that_is_the_parent_of_two_families_becomes_that_of_the_first():
    """Cosines of .365 in each and of .2995 between them, not coherent; and .905 with the sum of
    all, an atom without a use.
    """
    cosines = np.kron(0.0655 * np.eye(2) + 0.2995, np.ones((6, 6)))
    np.fill_diagonal(cosines, 1)
    atoms = WIDE[:, :12] @ np.linalg.cholesky(cosines).T
    atoms = np.column_stack([atoms, unit(atoms.sum(axis=1))])
    _, moved = rearranged(atoms, samples(*np.eye(12, 13)))
    assert moved == [0, 1, 2, 3, 4, 5, 12]


def test_a_member_of_one_family_is_no_parent_of_another():
    """The first atom of one family, on beside all those of the other, has a cosine of .91 with what
    these have in common.
    """
    q, p, *rest = WIDE[:, :9].T
    others = unit(np.stack([q + each for each in rest[:4]], axis=1))
    factor = unit(others.sum(axis=1))
    first = 0.91 * factor + (1 - 0.91**2) ** 0.5 * p
    family = np.stack([first, *(0.9 * p + 0.19**0.5 * each for each in rest[4:])], axis=1)
    beside = np.eye(4, 8) + np.eye(1, 8, 4)
    _, moved = rearranged(
        np.column_stack([others, family, WIDE[:, 9]]),
        np.pad(samples(*beside, *np.eye(4, 8, 4)), ((0, 0), (0, 1))),
    )
    assert not set(moved) & {0, 1, 2, 3} and {4, 5, 6, 7} <= set(moved)


def test_an_atom_that_follows_a_follower_is_of_no_family():
    """Three atoms around b, which is alike to c, around which there are more: only those around c
    are a family.
    """
    c, b, *rest = WIDE[:, :12].T
    b = 0.5 * c + 0.75**0.5 * b
    # cos(a, b) = .54, cos(a, a') = .7 and cos(a, c) = .27, which is not coherent.
    beside = 0.54 * b + (0.7 - 0.54**2) ** 0.5 * rest[0]
    around_b = [beside + 0.3**0.5 * each for each in rest[1:4]]
    around_c = [0.75 * c + (1 - 0.75**2) ** 0.5 * each for each in rest[4:9]]
    atoms = unit(np.stack([*around_b, b, c, *around_c, rest[9]], axis=1))
    assert rearranged(atoms, samples(*np.eye(10, 11)))[1] == list(range(3, 10))


def turned(share):
    """Atoms `(p + c) / √2` and `(p - c) / √2`, of which the first is on wherever p is, and c in a
    share of 100 samples.
    """
    p, c = NARROW[:, 0], NARROW[:, 1]
    on = round(100 * share)
    both = samples([HALF, HALF], times=100 - on)
    codes = np.concatenate([samples([2 * HALF, 0], times=on), both])
    return HALF * np.stack([p + c, p - c], axis=1), codes


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_turned_pair_becomes_the_parent_and_its_child(share):
    atoms, codes = turned(share)
    # With large codes, and an atom without a use; but it is no parent to split from a lone child.
    more = np.column_stack([atoms, NARROW[:, 2]])
    found, moved = rearranged(more, 2 * np.pad(codes, ((0, 0), (0, 1))))
    np.testing.assert_allclose(found, NARROW[:, [1, 0, 2]], atol=1e-5)
    assert moved == [0, 1]
    # Not in the round in which one of them has moved.
    for taken in (0, 1):
        given = jnp.asarray(filled(atoms), jnp.float32)
        found, _ = turn(given, jnp.arange(WIDTH) == taken, counted(codes))
        np.testing.assert_allclose(found, filled(atoms), atol=1e-6)


@pytest.mark.parametrize(("cosine", "turns"), [(0, True), (0.5, False), (0.999, False)])
def test_a_pair_is_turned_only_if_its_rays_differ_and_that_of_the_new_base_is_short(cosine, turns):
    """The ray of v is some .85 long, that of u .85, 1.04 or, with smaller codes, .8; the last is
    too close to that of v.
    """
    other = cosine * NARROW[:, 0] + (1 - cosine**2) ** 0.5 * NARROW[:, 1]
    atoms = jnp.asarray(filled(np.stack([NARROW[:, 0], other], axis=1)), jnp.float32)
    both = 0.4 if cosine > 0.9 else 0.6
    _, moved = turn(atoms, jnp.zeros(WIDTH, bool), counted(samples([1, 0], [both, both])))
    assert np.flatnonzero(moved).tolist() == [0, 1] * turns


def test_a_parent_and_its_child_are_not_turned():
    """Where the child is on in most of the samples too: the signals of both atoms are longer
    there.
    """
    codes = np.concatenate([samples([1, 0], times=10), samples([1, 1], times=90)])
    assert rearranged(NARROW[:, :2], codes)[1] == []


def test_of_many_pairs_the_best_are_turned():
    """Atoms 0 and 2 include 1, which is more often with 2; 3 and 4 include each other alike; of 5
    and 6 one has fewer uses.

    Atom 8 is on in .6 of the uses of 7, which it does not include.
    """
    atoms = WIDE[:, :9]
    together, products = np.zeros((9, 9)), np.zeros((9, 9))
    # Both atoms of a pair are small where they are on together.
    together[:3, :3] = [[100, 90, 90], [90, 90, 90], [90, 90, 95]]
    products[:3, :3] = [[100, 40, 40], [40, 40, 40], [40, 40, 95]]
    pairs = ((3, 100, 100, 90, 40), (5, 95, 100, 90, 40), (7, 75, 100, 45, 20))
    for place, first, second, both, product in pairs:
        pair = slice(place, place + 2)
        together[pair, pair] = [[first, both], [both, second]]
        products[pair, pair] = [[first, product], [product, second]]
    counts = of_tables(together)._replace(products=of_tables(products).products)
    found, moved, left, _ = _rearrange(jnp.asarray(filled(atoms), jnp.float32), counts)
    wanted = filled(atoms)
    for u, v in ((1, 2), (4, 3), (5, 6)):
        # The mean signal where u is on, and what v has beside it.
        wanted[:, u] = unit(products[u, u] * atoms[:, u] + products[u, v] * atoms[:, v])
        wanted[:, v] = unit(atoms[:, v] - wanted[:, u] * (wanted[:, u] @ atoms[:, v]))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [1, 2, 3, 4, 5, 6]
    kept = np.asarray(counts.together) * ~moved * ~moved[:, None]
    np.testing.assert_array_equal(left.together, kept)


@pytest.mark.parametrize("case", ["child", "on together", "siblings", "as long", "quiet"])
def test_a_parent_is_taken_out_of_a_child_that_is_used_in_its_place(case):
    """Atoms p and `(p + c) / √2`; not of a sibling `p + c'`, of which p is a half, nor of an atom
    that is hardly used.
    """
    p, c, other = WIDE[:, :3].T
    atoms = np.stack([p, HALF * (p + c)], axis=1)
    codes = samples([1, 0], [0, 2 * HALF])
    if case == "on together":
        codes = samples([1, 0], [1, 2 * HALF])
    elif case == "siblings":
        atoms[:, 0] = HALF * (p + other)
        codes = samples([1.3, 0], [0, 2 * HALF])
    elif case == "as long":
        codes = samples([1, 0], [0, 1])
    elif case == "quiet":
        codes = np.concatenate([codes, samples([0, 2 * HALF], times=600)])
    found, moved = rearranged(atoms, codes)
    assert moved == ([1] if case == "child" else [])
    if case == "child":
        np.testing.assert_allclose(found[:, 1], c, atol=1e-5)


def test_a_parent_that_is_parted_from_its_own_is_none_in_that_round():
    """Atoms p, `p + c` and `p + c + g`: the last loses p alone, lest what the second keeps is no
    longer there.
    """
    p, c, g = WIDE[:, :3].T
    atoms = unit(np.stack([p, p + c, p + c + g], axis=1))
    counts = counted(samples(*np.diag([1, 2**0.5, 3**0.5])))
    found, moved, _ = part(jnp.asarray(filled(atoms), jnp.float32), jnp.zeros(WIDTH, bool), counts)
    np.testing.assert_allclose(found[:, :3], unit(np.stack([p, c, c + g], axis=1)), atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [1, 2]


def test_of_two_parents_the_longer_is_taken_out_of_their_child():
    first, second, c = WIDE[:, :3].T
    child = 1.1 * first + 1.2 * second + 0.8 * c
    atoms = np.stack([first, second, child / np.linalg.norm(child)], axis=1)
    counts = counted(samples(*np.diag([1.1, 1.2, np.linalg.norm(child)])))
    found, moved, _ = part(jnp.asarray(filled(atoms), jnp.float32), jnp.zeros(WIDTH, bool), counts)
    np.testing.assert_allclose(found[:, 2], unit(1.1 * first + 0.8 * c), atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [2]


def test_of_two_atoms_of_one_concept_one_is_free():
    """At a cosine of .9 the longer one, which stays where nothing else needs an atom."""
    atoms = np.stack([WIDE[:, 0], 0.9 * WIDE[:, 0] + 0.19**0.5 * WIDE[:, 1]], axis=1)
    found, moved, _, idle = _rearrange(
        jnp.asarray(filled(atoms), jnp.float32), counted(samples([1, 0], [0, 1.1]))
    )
    np.testing.assert_allclose(found, filled(atoms), atol=1e-6)
    assert not moved.any() and np.flatnonzero(idle == 0).tolist() == [1]


def test_a_child_is_decorrelated_from_what_includes_it():
    """Seven pairs in 60 dimensions, where chance makes .13: uses of both, of the first, of the
    second, and their cosine.
    """
    pairs = {
        (50, 100, 50, 0.25): True,
        (50, 100, 50, -0.25): True,
        (50, 100, 50, 0.12): False,
        # On in 76 % of the child's uses.
        (38, 100, 50, 0.25): False,
        # Of two that are used as often none is the child.
        (95, 100, 100, 0.25): False,
        (95, 101, 100, 0.25): True,
        (5, 100, 5, 0.25): False,
    }
    atoms, together = NARROW[:, :WIDTH].copy(), np.zeros((WIDTH, WIDTH))
    for i, (both, first, second, cosine) in enumerate(pairs):
        together[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[first, both], [both, second]]
        atoms[:, 2 * i + 1] *= (1 - cosine**2) ** 0.5
        atoms[:, 2 * i + 1] += cosine * atoms[:, 2 * i]
    wanted = atoms.copy()
    for i, ((*_, cosine), moves) in enumerate(pairs.items()):
        if moves:
            wanted[:, 2 * i + 1] = unit(atoms[:, 2 * i + 1] - 0.5 * cosine * atoms[:, 2 * i])
    found = decorrelate(jnp.asarray(atoms, jnp.float32), of_tables(together))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_many_that_include_an_atom_share_is_taken_out_once():
    """Five atoms of cosine .7 with each other, each at .5 with the one that they include: at most
    all of it goes.
    """
    above = 0.7**0.5 * NARROW[:, :1] + 0.3**0.5 * NARROW[:, 1:6]
    # Their mean has a squared length of .7 + .3 / 5.
    mean = above.mean(axis=1) / 0.76**0.5
    child = 0.5 / 0.76**0.5 * mean + (1 - 0.25 / 0.76) ** 0.5 * NARROW[:, 6]
    together = np.diag([100.0] * 5 + [50])
    together[5, :5] = together[:5, 5] = 50
    found = decorrelate(
        jnp.asarray(filled(np.column_stack([above, child])), jnp.float32), of_tables(together)
    )
    np.testing.assert_allclose(found[:, :5].T @ found[:, 5], 0, atol=1e-5)


def test_what_is_nearly_always_on_includes_nothing_by_that_alone():
    """Of 100 samples; beside what is on in 90 of them are 45 of 50 uses by chance, beside what is
    on in 50 hardly.
    """
    found = family_rules.includes(of_tables([[90, 45, 0], [45, 50, 49], [0, 49, 50]], number=100))
    assert found[:3, :3].tolist() == [[False] * 3, [False, False, True], [False, True, False]]


def test_a_parent_is_the_least_used_of_those_that_include_an_atom_and_are_used_more():
    table = [[300, 200, 100], [200, 200, 100], [100, 100, 100]]
    for uses, parent in ((101, WIDTH), (103, 0)):
        found = family_rules.parents(of_tables([[uses, 100], [100, 100]]))
        assert found[:2].tolist() == [WIDTH, parent]
    assert family_rules.parents(of_tables(table))[:3].tolist() == [WIDTH, 0, 1]


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any():
    squares = jnp.array([0.0, 10.0, 0.0, 0.9, 12.0, 1.1, 0.0, 11.0, 0.0, 0.0])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, 0, np.inf, 0, 0]
    np.testing.assert_allclose(family_rules.idle_energy(squares), wanted)
    np.testing.assert_array_equal(family_rules.idle_energy(jnp.zeros(3)), jnp.zeros(3))
    assert float(family_rules.usual_energy(squares)) == pytest.approx(10)
    assert float(family_rules.usual_energy(jnp.zeros(3))) == 0


def test_the_page_of_mathematics_has_the_thresholds():
    page = Path(family_rules.__file__).with_name("README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    assert len(table) == 13
    assert all(getattr(family_rules, name.upper()) == float(value) for name, value in table.items())
