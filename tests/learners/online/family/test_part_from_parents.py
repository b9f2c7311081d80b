"""Parents taken out of children that are used in their place."""

import jax
import numpy as np
import pytest

from sae_gap.learners.online.family.atoms import Atoms
from sae_gap.learners.online.family.part_from_parents import part_from_parents
from tests.learners.online.family.examples import (
    HALF,
    WIDE,
    WIDTH,
    counted,
    filled,
    rearranged,
    repair,
    samples,
    unit,
)

part = jax.jit(part_from_parents)


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
    (found, moved), _ = part(Atoms(filled(atoms), np.zeros(WIDTH, bool)), counts)
    np.testing.assert_allclose(found[:, :3], unit(np.stack([p, c, c + g], axis=1)), atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [1, 2]


def test_of_two_parents_the_longer_is_taken_out_of_their_child():
    first, second, c = WIDE[:, :3].T
    child = 1.1 * first + 1.2 * second + 0.8 * c
    atoms = np.stack([first, second, child / np.linalg.norm(child)], axis=1)
    counts = counted(samples(*np.diag([1.1, 1.2, np.linalg.norm(child)])))
    (found, moved), _ = part(Atoms(filled(atoms), np.zeros(WIDTH, bool)), counts)
    np.testing.assert_allclose(found[:, 2], unit(1.1 * first + 0.8 * c), atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [2]


def test_of_two_atoms_of_one_concept_one_is_free():
    """At a cosine of .9 the longer one, which stays where nothing else needs an atom."""
    atoms = np.stack([WIDE[:, 0], 0.9 * WIDE[:, 0] + 0.19**0.5 * WIDE[:, 1]], axis=1)
    found, moved, _, idle = repair(filled(atoms), counted(samples([1, 0], [0, 1.1])))
    np.testing.assert_allclose(found, filled(atoms), atol=1e-6)
    assert not moved.any() and np.flatnonzero(idle == 0).tolist() == [1]
