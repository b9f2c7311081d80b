"""Outlier tokens are found by the median, described, and left out without moving any other row to
another part.
"""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.data.activations import open_activations, outliers

# 200 unit rows, ten to a document.
UNIT = np.random.default_rng(0).normal(size=(200, 6))
UNIT = (UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True)).astype(np.float32)
DOCUMENTS = np.arange(200) // 10


def with_outliers(lengths):
    """The unit rows, those of some numbers scaled."""
    rows = UNIT.copy()
    for row, length in lengths.items():
        rows[row] *= length
    return open_activations(rows, documents=DOCUMENTS)


def test_the_few_are_found_however_large_they_are_and_hardly_anything_else_moves():
    # The median is 1: half the rows would have to be outliers to move it. A mean would rise to 10⁶
    # and hide the second.
    found = with_outliers({30: 400, 31: 10.1, 77: 9.9, 190: 1e8}).outliers
    np.testing.assert_array_equal(found.rows, [30, 31, 190])
    np.testing.assert_allclose(found.ratios, [400, 10.1, 1e8], rtol=1e-5)


def test_squares_beyond_float32_are_still_told():
    assert list(with_outliers({3: 1e30}).outliers.rows) == [3]


@pytest.mark.parametrize(
    ("scale", "fits"), [(1e17, False), (1e13, True), (1e-7, True), (1e-17, False)]
)
def test_rows_whose_squares_float32_cannot_hold_are_refused(scale, fits):
    rows = open_activations(UNIT * np.float32(scale))
    if fits:
        assert not len(rows.outliers.rows)
    else:
        with pytest.raises(ValueError, match=f"a median norm of {scale:.1e}".replace("+", r"\+")):
            rows.without_outliers()


@pytest.mark.parametrize("zeros", [99, 100, 101, 190, 200])
def test_rows_of_zeros_do_not_move_the_median(zeros):
    rows = np.concatenate([np.zeros((zeros, 6), np.float32), UNIT[zeros:]])
    assert not len(open_activations(rows).outliers.rows)
    assert outliers.scale_down(rows) is rows
    if zeros < 200:
        rows[199] *= 400
        np.testing.assert_allclose(open_activations(rows).outliers.ratios, [400], rtol=1e-5)
        np.testing.assert_allclose(outliers.scale_down(rows)[199], UNIT[199], rtol=1e-5)


@pytest.mark.parametrize("documents", [DOCUMENTS, None])
@pytest.mark.parametrize("seed", range(4))
def test_a_split_draws_the_same_documents_with_and_without_them(documents, seed):
    rows = UNIT.copy()
    # Enough to change which documents bring the share nearest.
    rows[[*range(100, 108), 0, 51]] *= 500
    whole = open_activations(rows, documents=documents)
    lean = whole.without_outliers()
    assert (
        lean.num_samples == 190 and not len(lean.outliers.rows) and lean.without_outliers() is lean
    )
    for kept, part in zip(lean.split(0.22, seed), whole.split(0.22, seed), strict=True):
        everything = part.take(np.arange(part.num_samples))
        np.testing.assert_array_equal(
            kept.take(np.arange(kept.num_samples)),
            everything[np.linalg.norm(everything, axis=1) < 2],
        )
        if documents is not None:
            assert set(kept.documents) <= set(part.documents)


@pytest.mark.parametrize(
    ("lengths", "sentence"),
    [
        ({}, "no row is longer than 10 times"),
        ({30: 400, 51: 300, 77: 20}, "3 of 200 rows are outliers, 20 to 400 times .*, 1 of them"),
    ],
)
def test_a_sentence_tells_how_many_how_long_and_where(lengths, sentence):
    assert re.match(sentence, str(with_outliers(lengths).outliers))


@pytest.mark.parametrize("module", [np, jnp])
def test_a_learner_sees_outliers_rows_at_the_median_norm_and_the_very_same_array_without_any(
    module,
):
    usual = module.asarray(2 * UNIT)
    assert outliers.scale_down(usual) is usual
    rows = module.asarray(
        2 * UNIT * np.where(np.arange(200) == 5, 300, np.where(np.arange(200) == 6, 9, 1))[:, None]
    )
    seen = np.asarray(outliers.scale_down(rows))
    assert seen.dtype == rows.dtype
    np.testing.assert_allclose(seen[5], 2 * UNIT[5], rtol=1e-5)
    others = np.arange(200) != 5
    np.testing.assert_array_equal(seen[others], np.asarray(rows)[others])
    nothing = 0 * usual
    assert outliers.scale_down(nothing) is nothing
