"""Matching against brute force and SciPy, and what it must not depend on."""

import itertools
from unittest import mock

import numpy as np
import scipy
from numpy import array, float32, float64
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark, raises

from sae_gap.core import matching


@mark.parametrize(("dtype", "tolerance"), [(float64, 1e-12), (float32, 2e-6)])
def test_correlations_are_numpys_of_sparse_and_of_dense_columns(dtype, tolerance):
    rng = default_rng(8)
    # More columns than are multiplied at once: of 3 non-zeros in 200, with dense ones, constants
    # and tiny ones in between.
    left = rng.random((200, 700)) * (rng.random((200, 700)) < 0.015)
    left[:, [5, 511, 512, 690]] = 3 + rng.standard_normal((200, 4))
    left[:, 7], left[:, 8], left[:, 600] = 0, 0.1, 1e-30 * left[:, 601]
    right = rng.random((200, 5)) * array([1, 1e-20, 1e20, 1, 1]) - [0, 0, 0, 0, 5]
    with np.errstate(invalid="ignore"):
        every = np.nan_to_num(np.corrcoef(left.T, right.T))
    expected = np.abs(every[:700, 700:])
    expected[8] = 0
    left = left.astype(dtype)
    right = right.astype(dtype)
    found = matching.correlations(left, right)
    assert_allclose(found, expected, atol=tolerance)
    assert not found[[7, 8]].any()
    assert_allclose(matching.correlations(right, left), found.T, atol=tolerance)


@mark.parametrize("dtype", [float32, float64])
@mark.parametrize("constant", [0.0, 0.1, -3e4 / 7, 1e-30])
def test_a_constant_column_correlates_with_nothing(constant, dtype):
    left = default_rng(2).standard_normal((1_001, 2)).astype(dtype)
    left[:, 1] = constant
    assert not matching.correlations(left, left[:, 1:]).any()


def test_match_on_a_small_dictionary_is_the_best_of_all_in_double_precision():
    rng = default_rng(4)
    learned = rng.standard_normal((3, 6))
    truth = rng.standard_normal((3, 5))
    norms = [norm(atoms, axis=0) for atoms in (learned, truth)]
    cosines = learned.T @ truth / np.outer(*norms)
    match = matching.match_atoms(learned, truth)
    best = max(
        np.abs(cosines[list(chosen), np.arange(5)]).sum()
        for chosen in itertools.permutations(range(6), 5)
    )
    assert np.abs(match.cosine).sum() == approx(best, abs=1e-12)
    assert_allclose(match.cosine, cosines[match.learned, np.arange(5)], atol=1e-12)
    # Also of single precision; and squares of tiny atoms do not underflow.
    truth = rng.standard_normal((8, 12)).astype(float32)
    for scale in (float32(-3), float64(-1e-200)):
        match = matching.match_atoms(scale * truth[:, ::-1], truth)
        assert match.learned.tolist() == [*range(12)][::-1]
        assert_allclose(match.cosine, -1, rtol=1e-13)


def test_the_true_dictionary_itself_is_matched_without_a_product():
    truth = default_rng(9).standard_normal((3, 6)).astype(float32)
    truth[:, 2], truth[:, 5] = 0, truth[:, 4]
    with mock.patch.object(scipy.optimize, "linear_sum_assignment", None):
        match = matching.match_atoms(truth.copy(), truth)
    assert match.learned.tolist() == [*range(6)] and match.cosine.tolist() == [
        1,
        1,
        0,
        1,
        1,
        1,
    ]


@mark.parametrize(
    ("columns", "partners", "cosines"),
    [
        ([2, 0], [1, -1, 0, -1], [1, 0, 1, 0]),
        ([0, 0, 2, 3], [0, -1, 2, 3], [1, 0, 1, 1]),
        # Number 4 is a zero atom.
        ([0, 4, 2, 3], [0, -1, 2, 3], [1, 0, 1, 1]),
        ([4, 4], [-1] * 4, [0] * 4),
    ],
)
def test_a_narrower_dictionary_duplicates_or_zeros_leave_true_atoms_alone(
    columns, partners, cosines
):
    atoms = np.eye(4, 5)
    partners = array(partners)
    match = matching.match_atoms(atoms[:, columns], np.eye(4))
    known = partners >= 0
    assert_array_equal(match.learned[known], partners[known])
    assert match.cosine.tolist() == cosines
    assert matching.match_atoms(np.eye(4), np.zeros((4, 2))).cosine.tolist() == [0, 0]


def test_atoms_of_other_dimensions_are_refused():
    with raises(ValueError, match="input_dim"):
        matching.match_atoms(np.ones((3, 2)), np.ones((4, 2)))


def test_the_nearest_atom_may_lie_on_the_other_side_and_be_shared(monkeypatch):
    truth = np.eye(3, dtype=float32)
    learned = array(
        [[1, 0.1, 0], [-0.2, -2, 0.3], [0.9, 0, 0.1], [0, 0.1, 5]], float32
    ).T
    monkeypatch.setattr(matching, "_COSINES_AT_ONCE", 6)
    # Whatever the lengths of the atoms are.
    for lengths in (1, float32([1, 0.01, 100])):
        assert matching.nearest_atoms(learned, truth * lengths).tolist() == [0, 1, 0, 2]
