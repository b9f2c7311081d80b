"""A dictionary by itself, against loops."""

import numpy as np
import pytest

from sae_gap.metrics import agreement, atom_statistics, describe_atoms


def cosines(dictionary):
    unit = dictionary / np.maximum(np.linalg.norm(dictionary, axis=0), 1e-30)
    found = np.abs(unit.T @ unit)
    np.fill_diagonal(found, 0)
    return found.max(axis=0)


@pytest.mark.parametrize("held", [2**24, 40, 11, 1])
def test_largest_cosines_do_not_depend_on_the_blocks(held, monkeypatch):
    monkeypatch.setattr(atom_statistics, "_COSINES", held)
    dictionary = np.random.default_rng(0).normal(size=(5, 11)) * np.arange(1, 12)
    dictionary[:, 4] = 0
    found = atom_statistics.largest_cosines(dictionary)
    np.testing.assert_allclose(found, cosines(dictionary), atol=1e-5)
    assert found[4] == 0 and found.max() <= 1


def test_duplicates_and_dead_atoms_are_counted():
    rng = np.random.default_rng(1)
    dictionary = rng.normal(size=(40, 20))
    dictionary[:, 3] = -2 * dictionary[:, 5]
    dictionary[:, 7] = 0
    found = describe_atoms(dictionary)
    assert (found["dead_atoms"], found["duplicates"]) == (1, 2)
    live = cosines(dictionary)[np.arange(20) != 7]
    np.testing.assert_allclose(found["coherence"], np.percentile(live, range(101)), atol=1e-5)
    assert found["coherence"][-1] == pytest.approx(1)
    alone = describe_atoms(dictionary[:, 6:8])
    assert alone == {"dead_atoms": 1, "duplicates": 0, "coherence": []}


def test_agreement_is_blind_to_order_sign_and_length():
    rng = np.random.default_rng(2)
    dictionary = rng.normal(size=(12, 9))
    order = rng.permutation(9)
    same = dictionary[:, order] * np.where(rng.random(9) < 0.5, -1, 2)
    assert agreement(dictionary, same) == pytest.approx(1)
    assert agreement(dictionary, rng.normal(size=(12, 9))) < 0.8
    with pytest.raises(ValueError, match="one shape"):
        agreement(dictionary, dictionary[:, :4])
