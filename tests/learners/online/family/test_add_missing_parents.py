"""Parents without an atom, given one."""

import numpy as np
import pytest

from tests.learners.online.family.examples import (
    HALF,
    NARROW,
    WIDE,
    rearranged,
    repaired,
    samples,
    unit,
)


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
