"""Recovery of atoms against loops and SciPy's assignment, and a dictionary by itself."""

import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from sae_gap.core import Match, match_atoms, nearest_atoms
from sae_gap.metrics import (
    agreement,
    atom_scores,
    atom_statistics,
    describe_atoms,
    dictionary_recovery,
    groups_of,
)


def score(learned, truth):
    return dictionary_recovery(match_atoms(learned, truth), learned, truth)


def test_against_a_loop_over_matched_atoms():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((6, 10))
    learned = (truth + 0.4 * rng.standard_normal(truth.shape))[
        :, rng.permutation(10)
    ] * rng.uniform(0.5, 2, 10)
    cosines, angles, ratios = [], [], []
    for atom, partner in zip(truth.T, learned.T[match_atoms(learned, truth).learned], strict=True):
        lengths = math.hypot(*atom), math.hypot(*partner)
        cosines.append(abs(atom @ partner) / math.prod(lengths))
        angles.append(math.acos(min(cosines[-1], 1)))
        ratios.append(lengths[1] / lengths[0])
    found = score(learned, truth)
    wanted = dict(zip(("cosine", "angle", "norm_ratio"), (cosines, angles, ratios), strict=True))
    for name, values in wanted.items():
        assert found[name] == pytest.approx(np.mean(values))
    assert found["cosines"] == pytest.approx(sorted(cosines, reverse=True), abs=5.1e-5)
    assert found["close"] == np.mean(np.array(cosines) > 0.9)
    # Very many are told by fewer.
    many = rng.random(25_000)
    shown = dictionary_recovery(Match(np.arange(25_000), many), *2 * [np.ones((1, 25_000))])
    wanted = np.quantile(many, np.linspace(0, 1, 10_000))
    np.testing.assert_allclose(shown["cosines"][::-1], wanted, atol=2e-4)


@pytest.mark.parametrize("learned", [np.diag([0, 0, 1, 1]), np.eye(4)[:, 2:]])
def test_dead_and_missing_atoms_count_as_nothing_found(learned):
    found = score(learned, np.eye(4))
    assert found["cosine"] == found["close"] == found["norm_ratio"] == 0.5
    assert found["angle"] == pytest.approx(math.pi / 4) and found["cosines"] == [1, 1, 0, 0]
    # A true atom of zeros has no ratio.
    assert score(2 * np.eye(4), learned @ learned.T)["norm_ratio"] == 2


def unit(seed, columns):
    matrix = np.random.default_rng(seed).standard_normal((6, columns)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=0)


@pytest.mark.parametrize(("learned", "true"), [(5, 9), (9, 5)])
def test_atom_scores_are_those_of_the_assignment(learned, true):
    atoms, truth = unit(0, learned) * 3, unit(1, true)
    cosine = np.abs((atoms / 3).T @ truth)
    rows, columns = linear_sum_assignment(-cosine)
    nearest, groups = nearest_atoms(atoms, truth), {"first": np.arange(3), "none": np.zeros(0, int)}
    found = atom_scores(match_atoms(atoms, truth), learned, nearest, groups)
    pairs = dict(zip(columns.tolist(), cosine[rows, columns], strict=True))
    assert found == pytest.approx(
        {
            "atom_mcc": np.mean([*pairs.values()]),
            "uniqueness": len(set(cosine.argmax(axis=1))) / learned,
            "atom_mcc_first": np.mean([pairs[i] for i in range(3) if i in pairs]),
        },
        abs=1e-6,
    )


def test_groups_are_levels_and_quartiles():
    codes = np.zeros((20, 8), np.float32)
    for feature, fired in enumerate((3, 20, 1, 5, 7, 0, 9, 2)):
        codes[:fired, feature] = 1
    levels = {"roots": [0, 1], "children": [2, 3], "grandchildren": [4]}
    levels |= {"great_grandchildren": [], "free": [6, 7]}
    levels |= {"frequent": [1, 6], "common": [4, 3], "uncommon": [0, 7], "rare": [2, 5]}
    found = groups_of(codes, np.array([0, 0, 1, 1, 2, 4, -1, -1]))
    assert {name: group.tolist() for name, group in found.items()} == levels


def test_a_dictionary_is_described_as_by_loops(monkeypatch):
    monkeypatch.setattr(atom_statistics, "_COSINES", 60)
    dictionary = np.random.default_rng(1).normal(size=(40, 20))
    dictionary[:, 3] = -2 * dictionary[:, 5]
    dictionary[:, 7] = 0
    found = describe_atoms(dictionary)
    assert (found["dead_atoms"], found["duplicates"]) == (1, 2)
    live = np.delete(dictionary, 7, axis=1) / np.linalg.norm(
        np.delete(dictionary, 7, axis=1), axis=0
    )
    largest = np.max(np.abs(live.T @ live - np.eye(19)), axis=0)
    np.testing.assert_allclose(found["coherence"], np.percentile(largest, range(101)), atol=1e-5)
    alone = describe_atoms(dictionary[:, 6:8])
    assert alone == {"dead_atoms": 1, "duplicates": 0, "coherence": []}


def test_agreement_is_blind_to_order_sign_and_length():
    rng = np.random.default_rng(2)
    dictionary = rng.normal(size=(12, 9))
    same = dictionary[:, rng.permutation(9)] * np.where(rng.random(9) < 0.5, -1, 2)
    assert agreement(dictionary, same) == pytest.approx(1)
    with pytest.raises(ValueError, match="one shape"):
        agreement(dictionary, dictionary[:, :4])
