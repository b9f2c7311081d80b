"""Matching against brute force and SciPy, and what it must not depend on."""

import itertools
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from scipy.stats import pearsonr

from sae_gap.core import matching


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_correlations_against_scipy(dtype, tolerance):
    rng = np.random.default_rng(1)
    left, right = (
        rng.standard_normal((30, 4)).astype(dtype),
        (5 + rng.standard_normal((30, 3))).astype(dtype),
    )
    expected = [
        [abs(pearsonr(a, b)[0]) for b in right.T.astype(float)] for a in left.T.astype(float)
    ]
    np.testing.assert_allclose(matching.correlations(left, right), expected, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_correlations_of_sparse_columns_are_those_of_all_their_entries(dtype, tolerance):
    rng = np.random.default_rng(8)
    # More columns than are multiplied at once: of 3 non-zeros in 200, with dense ones, constants
    # and tiny ones in between.
    left = rng.random((200, 700)) * (rng.random((200, 700)) < 0.015)
    left[:, [5, 511, 512, 690]] = 3 + rng.standard_normal((200, 4))
    left[:, 7], left[:, 8], left[:, 600] = 0, 0.1, 1e-30 * left[:, 601]
    right = rng.random((200, 9)) * np.array([1, 1, 1, 1e-20, 1e20, 1, 1, 1, 1])
    centred = [column - column.mean() for column in left.T]
    expected = np.array(
        [
            [
                abs(a @ b) / max(np.sqrt(a @ a) * np.sqrt(b @ b), 1e-300)
                for b in right.T - right.T.mean(axis=1, keepdims=True)
            ]
            for a in centred
        ]
    )
    expected[[7, 8]] = 0
    found = matching.correlations(left.astype(dtype), right.astype(dtype))
    np.testing.assert_allclose(found, expected, atol=tolerance)
    assert not found[7].any() and not found[8].any()
    np.testing.assert_allclose(
        matching.correlations(right.astype(dtype), left.astype(dtype)), found.T, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4 / 7, 1e-30])
def test_a_constant_column_correlates_with_nothing(constant, dtype):
    left = np.random.default_rng(2).standard_normal((1_001, 2)).astype(dtype)
    right = np.full((1_001, 1), constant, dtype)
    assert np.array_equal(matching.correlations(left, right), np.zeros((2, 1)))
    assert np.array_equal(matching.correlations(right, right), [[0]])


def test_tiny_columns_do_not_underflow():
    columns = np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32)
    np.testing.assert_allclose(
        matching.unit_columns(columns * np.float32(1e-30)),
        matching.unit_columns(columns),
        rtol=1e-5,
    )


def test_match_on_a_small_dictionary_is_the_best_of_all():
    rng = np.random.default_rng(4)
    learned, truth = rng.standard_normal((3, 6)), rng.standard_normal((3, 5))
    cosines = (learned / np.linalg.norm(learned, axis=0)).T @ (
        truth / np.linalg.norm(truth, axis=0)
    )
    match = matching.match_atoms(learned, truth)
    best = max(
        np.abs(cosines[list(chosen), np.arange(5)]).sum()
        for chosen in itertools.permutations(range(6), 5)
    )
    assert np.abs(match.cosine).sum() == pytest.approx(best, abs=1e-12)
    np.testing.assert_allclose(match.cosine, cosines[match.learned, np.arange(5)], atol=1e-12)


def test_cosines_are_told_in_double_precision():
    truth = np.random.default_rng(5).standard_normal((8, 12)).astype(np.float32)
    match = matching.match_atoms(jnp.asarray(-3 * truth[:, ::-1]), jnp.asarray(truth))
    assert match.learned.tolist() == [*range(12)][::-1]
    np.testing.assert_allclose(match.cosine, -1, rtol=1e-13)


def test_the_true_dictionary_itself_is_matched_without_a_product():
    truth = np.random.default_rng(9).standard_normal((3, 8)).astype(np.float32)
    truth[:, 2], truth[:, 5] = 0, truth[:, 4]
    with mock.patch.object(scipy.optimize, "linear_sum_assignment") as assigned:
        match = matching.match_atoms(jnp.asarray(truth), truth)
    assert not assigned.called
    assert match.learned.tolist() == list(range(8))
    assert match.cosine.tolist() == [1, 1, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("columns", "partners", "cosines"),
    [([2, 0], [1, -1, 0, -1], [1, 0, 1, 0]), ([0, 0, 2, 3], [0, -1, 2, 3], [1, 0, 1, 1])],
)
def test_a_narrower_dictionary_or_one_with_duplicates_leaves_true_atoms_alone(
    columns, partners, cosines
):
    truth = np.eye(4)
    match = matching.match_atoms(truth[:, columns], truth)
    alone = np.asarray(partners) < 0
    assert (
        np.array_equal(match.learned[~alone], np.asarray(partners)[~alone])
        and match.cosine.tolist() == cosines
    )


def test_zero_atoms_have_cosine_zero():
    truth = np.eye(3)
    learned = truth.copy()
    learned[:, 1] = 0
    match = matching.match_atoms(learned, truth)
    assert match.learned.tolist() == [0, 1, 2]
    assert match.cosine.tolist() == [1, 0, 1]
    assert matching.match_atoms(np.zeros((3, 2)), truth).cosine.tolist() == [0, 0, 0]
    assert matching.match_atoms(truth, np.zeros((3, 2))).cosine.tolist() == [0, 0]


BAD = [
    (np.ones(3), "non-empty matrix"),
    (np.ones((3, 0)), "non-empty matrix"),
    (np.array([[1.0, np.nan]]), "finite"),
    (np.array([[1.0, np.inf]]), "finite"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_what_is_not_a_finite_matrix_is_refused(bad, message):
    with pytest.raises(ValueError, match=f"^values must be .*{message}"):
        matching.as_matrix("values", bad)
    with pytest.raises(ValueError, match="input_dim"):
        matching.match_atoms(np.ones((3, 2)), np.ones((4, 2)))


def test_the_nearest_atom_may_lie_on_the_other_side_and_be_shared(monkeypatch):
    truth = np.eye(3, dtype=np.float32)
    learned = np.array([[1, 0.1, 0], [-0.2, -2, 0.3], [0.9, 0, 0.1], [0, 0.1, 5]], np.float32).T
    monkeypatch.setattr(matching, "_COSINES_AT_ONCE", 6)
    # Whatever the lengths of the atoms are.
    for lengths in (1, np.float32([1, 0.01, 100])):
        assert matching.nearest_atoms(learned, truth * lengths).tolist() == [0, 1, 0, 2]
