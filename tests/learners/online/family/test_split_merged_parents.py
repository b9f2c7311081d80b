"""Parents that are merged with a child, split."""

import numpy as np
import pytest

from tests.learners.online.family.examples import HALF, NARROW, rearranged, repaired, samples, unit


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
