"""Pairs turned into a parent and its child."""

import jax
import numpy as np
import pytest

from sae_gap.learners.online.family.atoms import Atoms
from sae_gap.learners.online.family.turn_pairs import turn_pairs
from tests.learners.online.family.examples import (
    HALF,
    NARROW,
    WIDE,
    WIDTH,
    counted,
    filled,
    of_tables,
    rearranged,
    repair,
    samples,
    unit,
)

turn = jax.jit(turn_pairs)


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
        found, _ = turn(Atoms(filled(atoms), np.arange(WIDTH) == taken), counted(codes))
        np.testing.assert_allclose(found, filled(atoms), atol=1e-6)


@pytest.mark.parametrize(("cosine", "turns"), [(0, True), (0.5, False), (0.999, False)])
def test_a_pair_is_turned_only_if_its_rays_differ_and_that_of_the_new_base_is_short(cosine, turns):
    """The ray of v is some .85 long, that of u .85, 1.04 or, with smaller codes, .8; the last is
    too close to that of v.
    """
    other = cosine * NARROW[:, 0] + (1 - cosine**2) ** 0.5 * NARROW[:, 1]
    atoms = Atoms(filled(np.stack([NARROW[:, 0], other], axis=1)), np.zeros(WIDTH, bool))
    both = 0.4 if cosine > 0.9 else 0.6
    _, moved = turn(atoms, counted(samples([1, 0], [both, both])))
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
    counts = of_tables(together, products)
    found, moved, left, _ = repair(filled(atoms), counts)
    wanted = filled(atoms)
    for u, v in ((1, 2), (4, 3), (5, 6)):
        # The mean signal where u is on, and what v has beside it.
        wanted[:, u] = unit(products[u, u] * atoms[:, u] + products[u, v] * atoms[:, v])
        wanted[:, v] = unit(atoms[:, v] - wanted[:, u] * (wanted[:, u] @ atoms[:, v]))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.flatnonzero(moved).tolist() == [1, 2, 3, 4, 5, 6]
    assert not np.isin(left.partners, np.flatnonzero(moved)).any()
    np.testing.assert_array_equal(left.uses, np.where(moved, 0, counts.uses))
