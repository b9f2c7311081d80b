"""The rules of families, each where it acts and just where it does not, and their thresholds."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import cooccurrence, family
from tests.learners.online.examples import (
    NARROW,
    ROWS,
    WIDE,
    WIDTH,
    counted,
    filled,
    of_tables,
    repair,
    unit,
)

HALF = 0.5**0.5
E = np.eye(WIDTH)
ALL = [0, 1, 2, 3, 4]
turn, part = (jax.jit(rule) for rule in (family.turn_pairs, family.part_from_parents))


def stack(*columns):
    """Atoms side by side, at unit length."""
    return unit(np.column_stack(columns))


def rows(*patterns, times=100):
    return np.tile(np.array(patterns, float), (times, 1))


def more(codes, *patterns, times=100):
    return np.concatenate([codes, rows(*patterns, times=times)])


def changed(codes, where, value):
    codes = codes.copy()
    codes[where] = value
    return codes


def beside(codes, share):
    """The codes of a first atom that is on beside each of some others."""
    return [[share, *row] for row in codes]


def rays(frame, extra):
    """Atoms `p + c_k` and another."""
    return stack(frame[:, :1] + frame[:, 1:5], extra)


def of_rays(frame):
    """What four rays tell: `c_k - Σ c / 4` and `4 p + Σ c`."""
    p, c = frame[:, 0], frame[:, 1:5]
    return stack(c - c.mean(axis=1, keepdims=True), 4 * p + c.sum(axis=1))


p, q, *c = NARROW.T
wide, p_wide, c_wide = WIDE[:, 5], WIDE[:, 0], WIDE[:, 1:5]
lone, last = rows(*E[:4, :5]), E[4, :5]
there = of_rays(WIDE)[:, 4] + 0.4 * wide
# A parent that is merged with the first of its children: the codes of `p + c_1 … p + c_4`.
siblings = [q, *c[:3]]
merged = stack(p + q, *(each + (p - q) / 2 for each in c[:3]), c[3])
triple = 1.5**0.5 * E[:3, :3]
of_merged = rows([2 * HALF, 0, 0, 0, 0], *np.pad(beside(triple, HALF), ((0, 0), (0, 1))))
split = of_rays(np.column_stack([p, *siblings]))[:, [4, 1, 2, 3, 0]]
# And of which two are all children.
pair = stack(p + q, c[0] + (p - q) / 2, c[1])
of_pair = 2 * rows([2 * HALF, 0, 0], [HALF, 1.5**0.5, 0])
# A child that has its parent, which is never on beside it.
child = stack(p_wide, p_wide + c_wide[:, 0])
of_child = rows([1, 0], [0, 2 * HALF])
turned = stack(p + q, p - q, c[0])


def of_turned(on):
    """Codes of a pair for p: c is on in some of 100 samples."""
    return 2 * np.repeat([[2 * HALF, 0, 0], [HALF, HALF, 0]], [on, 100 - on], axis=0)


def with_factor(cosine):
    """A parent and children that share something else."""
    return stack(p, cosine**0.5 * NARROW[:, 5:6] + (1 - cosine) ** 0.5 * NARROW[:, 1:5])


def two_families():
    """The parent of the second has an atom without a use, which the first may not take."""
    first, second = (WIDE[:, a : a + 1] + WIDE[:, a + 1 : a + 5] for a in (0, 5))
    return stack(first, second, unit(second).sum(axis=1) + 0.1 * WIDE[:, 10], WIDE[:, 11])


def parent_of_two():
    """Cosines of .365 in each family and of .2995 between them, not coherent; and .905 with the sum
    of all, an atom without a use.
    """
    cosines = np.kron(0.0655 * np.eye(2) + 0.2995, np.ones((6, 6)))
    np.fill_diagonal(cosines, 1)
    family = WIDE[:, :12] @ np.linalg.cholesky(cosines).T
    return stack(family, family.sum(axis=1))


def followers():
    """Three atoms around b, which is alike to c, around which there are more: only those around c
    are a family.
    """
    c, b, *rest = WIDE[:, :12].T
    b = 0.5 * c + 0.75**0.5 * b
    # cos(a, b) = .54, cos(a, a') = .7 and cos(a, c) = .27, which is not coherent.
    near = 0.54 * b + (0.7 - 0.54**2) ** 0.5 * rest[0]
    around_b = [near + 0.3**0.5 * each for each in rest[1:4]]
    around_c = [0.75 * c + (1 - 0.75**2) ** 0.5 * each for each in rest[4:9]]
    return stack(*around_b, b, c, *around_c, rest[9])


def generations():
    """Atom 0 is always on, and one of 1, 2 and 3, which are alike; beside 1 one of 4, 5 and 6,
    which are alike: of a parent and its own parent one is split.
    """
    shared = np.repeat(NARROW[:, [9, 7, 8]] * [0, 0.8, 0.8], [1, 3, 3], axis=1)
    others = np.eye(6)
    return stack(NARROW[:, :7] + shared), rows(
        *([1, *others[i] + (others[j] if i == 0 else 0)] for i in range(3) for j in (3, 4, 5))
    )


# Atoms, codes, which atoms move, and what they become where that is simple.
CASES = {
    # A parent without an atom gets one without a use or of little.
    "missing": (rays(WIDE, wide), lone, ALL, of_rays(WIDE)),
    "idle": (rays(WIDE, wide), changed(lone, np.s_[:20, 4], 0.3), ALL, of_rays(WIDE)),
    # An atom that is there, and apart, is one more ray of the family; in 60 % of the uses of its
    # children it is not apart.
    "there": (rays(WIDE, there), more(lone, last), ALL),
    "there and on": (rays(WIDE, there), changed(lone, np.s_[:240, 4], 1), ALL, of_rays(WIDE)),
    "busy": (rays(WIDE, wide), more(lone, last), []),
    "idle child": (rays(WIDE, wide), changed(more(lone, last), np.s_[:320, 3], 0), []),
    "no family": (rays(WIDE, wide), changed(lone, np.s_[:, 2:4], 0), []),
    "on together": (rays(WIDE, wide), rows(*(1 - E[:4, :5]) * [1, 1, 1, 1, 0]), []),
    "coherent by chance": (rays(NARROW, c[3]), lone, []),
    "a place and a parent": (two_families(), rows(*E[:8, :10]), [*range(10)]),
    "parent of two": (parent_of_two(), rows(*E[:12, :13]), [*range(6), 12]),
    "followers": (followers(), rows(*E[:10, :11]), [*range(3, 10)]),
    # A parent is taken out of a child that is used in its place; not of a sibling, of which p is a
    # half, nor of an atom that is hardly used.
    "child": (child, of_child, [1], WIDE[:, :2]),
    "child beside": (child, rows([1, 0], [1, 2 * HALF]), []),
    "siblings": (stack(p_wide + wide, child[:, 1]), rows([1.3, 0], [0, 2 * HALF]), []),
    "quiet": (child, more(of_child, [0, 2 * HALF], times=600), []),
    # A parent that is one of its children as well is split, and the child that it was takes an atom
    # without a use or of little, if there is any but its siblings.
    "merged": (merged, of_merged, ALL, split),
    "merged, idle": (merged, changed(of_merged, np.s_[:20, 4], 0.5), ALL, split),
    # A child is on in 8 samples.
    "merged, rare child": (
        merged,
        np.delete(more(of_merged, 1.5 * last), np.flatnonzero(of_merged[:, 3])[8:], axis=0),
        ALL[:4],
        split,
    ),
    "not merged": (stack(p, *c[:4]), of_merged, []),
    # .92 of the code without children.
    "large codes": (merged, np.where(of_merged == HALF, 1.3, of_merged), []),
    "split of none on together": (
        merged,
        more(rows([2 * HALF, 0, 0, 0, 0], times=300), *([HALF, *row, 0] for row in 1 - E[:3, :3])),
        [],
    ),
    # A mean cosine of .09.
    "not alike": (
        stack(merged[:, 0], NARROW[:, 2:5] + 0.3145 * NARROW[:, 6:7], c[3]),
        of_merged,
        [],
    ),
    # The parent is on in 77 % of each child's uses.
    "not included": (merged, more(of_merged, *E[1:4, :5], times=30), []),
    # Of two children one is split from the parent that is the other, whose mean it becomes: if a
    # place is free, and the child is on in more than a third of its uses and its codes are large.
    "pair": (pair, of_pair, [0, 1, 2], stack(2 * p + q + c[0], c[0] - q, q - c[0])),
    "pair, no place": (pair, more(of_pair, [0, 0, 1.5]), []),
    "pair, seldom": (pair, more(of_pair, [3 * HALF, 0, 0]), []),
    "pair, small": (pair, of_pair / 2, []),
    "pair, as large": (pair, np.where([1, 0, 0] * (of_pair > 0), 4 * HALF, of_pair), []),
    # A parent is kept if its loading, 1 / √(1 + cosine), is that of the common factor.
    "factor": (with_factor(0.13), rows(E[0, :5], *beside(0.8 * E[:4, :4], 0.8)), []),
    "no factor": (with_factor(0.2), rows(E[0, :5], *beside(0.8 * E[:4, :4], 0.8)), ALL),
    # Never alone, it is what the rays tell, and no child wants a place.
    "never alone": (
        stack(with_factor(0.13), NARROW[:, 6]),
        np.pad(rows(*beside(0.8 * E[:4, :4], 0.8)), ((0, 0), (0, 1))),
        ALL,
    ),
    "generations": (*generations(), [0, 1, 2, 3]),
    # Atoms `p + c` and `p - c`, of which the first is on wherever p is.
    "turned": (turned, of_turned(25), [0, 1], NARROW[:, [1, 0, 2]]),
    "turned as often": (turned, of_turned(50), [0, 1], NARROW[:, [1, 0, 2]]),
    # Where the child is on too, the signals of both atoms are longer.
    "not turned": (NARROW[:, :2], more(rows([1, 0], times=10), [1, 1], times=90), []),
}


@pytest.mark.parametrize("case", CASES)
def test_atoms_move_where_a_rule_says_so(case):
    dictionary, codes, wanted, *became = CASES[case]
    found, moved, *_ = map(np.asarray, repair(filled(dictionary), counted(codes))[:2])
    assert np.flatnonzero(moved).tolist() == wanted
    np.testing.assert_allclose(found[:, ~moved], filled(dictionary)[:, ~moved], atol=1e-6)
    if became:
        np.testing.assert_allclose(found[:, wanted], became[0][:, wanted], atol=1e-5)


def by(rule, dictionary, codes, taken=WIDTH):
    """The atoms after one rule, which may have moved before, and which of them have then."""
    given = family.Atoms(filled(dictionary), np.arange(WIDTH) == taken)
    found = rule(given, counted(codes))
    found = found[0] if rule is part else found
    return found.dictionary, np.flatnonzero(found.moved).tolist()


# The ray of v is some .85 long, that of u .85, 1.04 or, with smaller codes, .8; the last is too
# close to that of v.
@pytest.mark.parametrize(
    ("cosine", "both", "turns"), [(0, 0.6, True), (0.5, 0.6, False), (0.999, 0.4, False)]
)
def test_a_pair_is_turned_if_its_rays_differ_and_that_of_the_new_base_is_short(cosine, both, turns):
    other = cosine * p + (1 - cosine**2) ** 0.5 * q
    assert by(turn, stack(p, other), rows([1, 0], [both, both]))[1] == [0, 1] * turns


@pytest.mark.parametrize("taken", [0, 1])
def test_a_pair_is_not_turned_in_the_round_in_which_one_of_it_has_moved(taken):
    assert by(turn, turned, of_turned(25), taken)[1] == [taken]


def test_of_many_pairs_the_best_are_turned():
    """Atoms 0 and 2 include 1, which is more often with 2; 3 and 4 include each other alike; of 5
    and 6 one has fewer uses; 8 is on in .6 of the uses of 7, which it does not include.
    """
    together, products = np.zeros((2, 9, 9))
    # Both atoms of a pair are small where they are on together.
    together[:3, :3] = [[100, 90, 90], [90, 90, 90], [90, 90, 95]]
    products[:3, :3] = [[100, 40, 40], [40, 40, 40], [40, 40, 95]]
    for at, first, second, both in ((3, 100, 100, 90), (5, 95, 100, 90), (7, 75, 100, 45)):
        of_two = np.s_[at : at + 2, at : at + 2]
        together[of_two] = [[first, both], [both, second]]
        product = 40 if both == 90 else 20
        products[of_two] = [[first, product], [product, second]]
    wanted = filled(WIDE[:, :9])
    # JAX may read an array after the call.
    found, moved, _ = repair(wanted.copy(), of_tables(together, products))
    for u, v in ((1, 2), (4, 3), (5, 6)):
        # The mean signal where u is on, and what v has beside it.
        wanted[:, u] = unit(products[u, u] * WIDE[:, u] + products[u, v] * WIDE[:, v])
        wanted[:, v] = unit(WIDE[:, v] - wanted[:, u] * (wanted[:, u] @ WIDE[:, v]))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [1, 2, 3, 4, 5, 6]


def test_one_parent_is_taken_out_of_an_atom():
    p, q, c = WIDE[:, :3].T
    # That of a parent which is itself parted stays, lest what the second keeps is no longer there.
    chain = stack(p, p + q, p + q + c)
    found, moved = by(part, chain, rows(*np.diag([1, 2**0.5, 3**0.5])))
    np.testing.assert_allclose(found[:, :3], stack(p, q, q + c), atol=1e-5)
    assert moved == [1, 2]
    # Of two the longer.
    child = 1.1 * p + 1.2 * q + 0.8 * c
    codes = rows(*np.diag([1.1, 1.2, np.linalg.norm(child)]))
    found, moved = by(part, stack(p, q, child), codes)
    np.testing.assert_allclose(found[:, 2], unit(1.1 * p + 0.8 * c), atol=1e-5)
    assert moved == [2]


def test_of_two_atoms_of_one_concept_the_longer_is_free():
    """At a cosine of .9; it stays where nothing else needs an atom."""
    twins = filled(stack(p_wide, 0.9 * p_wide + 0.19**0.5 * wide))
    found, moved, idle = repair(twins, counted(rows([1, 0], [0, 1.1])))
    np.testing.assert_allclose(found, twins, atol=1e-6)
    assert not moved.any() and np.flatnonzero(idle == 0).tolist() == [1]


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any():
    squares = jnp.array([0.0, 10.0, 0.0, 0.9, 12.0, 1.1, 0.0, 11.0, 0.0, 0.0])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, 0, np.inf, 0, 0]
    np.testing.assert_allclose(family.idle_energy(squares), wanted)
    assert not family.idle_energy(jnp.zeros(3)).any()
    assert float(family.usual_energy(squares)) == pytest.approx(10)


def test_atoms_are_alike_only_if_neither_is_on_in_half_of_the_uses_of_the_other():
    """Of three like atoms with 300, 100 and 100 uses the second is on beside the first in 60, the
    third in 20; a fourth has hardly any use, and a fifth has moved.
    """
    table = np.diag([300.0, 100, 100, 3, 100])
    table[0, 1:3] = table[1:3, 0] = 60, 20
    like = filled(unit(np.full((ROWS, 5), 1.0) + np.eye(ROWS, 5)))
    others = np.tile(np.arange(WIDTH), (WIDTH, 1))
    given = family.Atoms(jnp.asarray(like), jnp.arange(WIDTH) == 4)
    found, cosines = family.alike_pairs(given, of_tables(table), jnp.asarray(others), 0.5)
    np.testing.assert_allclose(cosines, like.T @ like, atol=1e-5)
    assert np.argwhere(found).tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]


def test_the_page_of_mathematics_has_the_thresholds():
    page = Path(cooccurrence.__file__).with_name("README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    constants = vars(cooccurrence) | vars(family)
    assert len(table) == 13
    assert all(constants[name.upper()] == float(value) for name, value in table.items())
    # Pairs of smaller shares are not counted.
    assert min(constants[name] for name in ("INCLUDES", "APART")) >= constants["PARTNERS"]
