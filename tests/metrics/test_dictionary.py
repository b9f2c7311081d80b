"""Dictionary recovery against loops over atoms, and on dictionaries whose score is known."""

import math

import numpy as np
import pytest

from sae_gap.core import Match, Model, Split, Task, match_atoms
from sae_gap.metrics import Inferred, dictionary_recovery
from sae_gap.metrics.dictionary import measure


def score(learned, truth):
    return dictionary_recovery(match_atoms(learned, truth), learned, truth)


def test_against_a_loop_over_matched_atoms():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((6, 10))
    learned = (truth + 0.4 * rng.standard_normal(truth.shape))[
        :, rng.permutation(10)
    ] * rng.uniform(0.5, 2, 10)
    match = match_atoms(learned, truth)
    cosines, angles, ratios = [], [], []
    for atom, partner in zip(truth.T, learned.T[match.learned], strict=True):
        lengths = math.hypot(*atom), math.hypot(*partner)
        cosines.append(
            abs(sum(a * b for a, b in zip(atom, partner, strict=True))) / math.prod(lengths)
        )
        angles.append(math.acos(min(cosines[-1], 1)))
        ratios.append(lengths[1] / lengths[0])
    found = score(learned, truth)
    assert found["cosine"] == pytest.approx(np.mean(cosines))
    assert found["close"] == np.mean(np.array(cosines) > 0.9)
    assert 0 < found["close"] < 1
    assert found["angle"] == pytest.approx(np.mean(angles))
    assert found["norm_ratio"] == pytest.approx(np.mean(ratios))
    assert found["cosines"] == pytest.approx(sorted(cosines, reverse=True), abs=5.1e-5)


def test_measure_looks_for_each_true_atom_among_the_learned_ones():
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((6, 4)).astype(np.float32)
    learned = np.hstack([rng.standard_normal((6, 5)), 2 * truth[:, ::-1]]).astype(np.float32)
    task = Task(*[Split(np.zeros((4, 6), np.float32))] * 3, dictionary=truth, width=9)
    one = Inferred(task, Model(learned, np.zeros(6)), {}, {}, 0.1, "strict")
    assert one.match.learned.tolist() == [8, 7, 6, 5]
    assert measure(one)["cosines"] == pytest.approx([1] * 4) and measure(one)[
        "norm_ratio"
    ] == pytest.approx(2)


def test_the_distribution_of_very_many_cosines_is_told_by_fewer():
    width = 25_000
    cosines = np.random.default_rng(2).random(width)
    match = Match(np.arange(width), cosines)
    shown = dictionary_recovery(match, np.ones((1, width)), np.ones((1, width)))["cosines"]
    assert (
        len(shown) == 10_000
        and shown[0] == round(cosines.max(), 4)
        and shown[-1] == round(cosines.min(), 4)
    )
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(shown, share) == pytest.approx(np.quantile(cosines, share), abs=1e-3)


def test_close_is_above_nine_tenths():
    angles = np.arccos([0.95, 0.905, 0.895, 0.5])
    learned = np.zeros((8, 4))
    learned[range(4), range(4)], learned[range(4, 8), range(4)] = np.cos(angles), np.sin(angles)
    assert score(learned, np.eye(8)[:, :4])["close"] == 0.5


def test_dead_and_missing_atoms_count_as_nothing_found():
    truth = np.eye(4)
    dead = truth.copy()
    dead[:, :2] = 0
    for learned in (dead, truth[:, 2:]):
        found = score(learned, truth)
        assert found["cosine"] == found["close"] == found["norm_ratio"] == 0.5
        assert found["angle"] == pytest.approx(math.pi / 4)
        assert found["cosines"] == [1, 1, 0, 0]


def test_a_true_zero_atom_has_no_norm_ratio():
    truth = np.diag([1.0, 1.0, 0.0])
    assert score(2 * np.eye(3), truth)["norm_ratio"] == 2
    assert score(np.eye(3), np.zeros((3, 2)))["norm_ratio"] == 0
