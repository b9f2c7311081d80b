"""Outlier tokens are found by the median, described, and left out without moving any other row to
another part.
"""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.data import open_activations
from sae_gap.data.activations import outliers

# 200 unit rows, ten to a document.
UNIT = np.random.default_rng(0).normal(size=(200, 6))
UNIT = (UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True)).astype(np.float32)
DOCUMENTS = np.arange(200) // 10


def scaled(lengths):
    """The unit rows, those of some numbers scaled."""
    return UNIT * np.array([lengths.get(row, 1) for row in range(200)], np.float32)[:, None]


@pytest.mark.parametrize(
    ("lengths", "sentence"),
    [
        ({77: 9.9}, "no row is longer than 10 times the median norm"),
        # A mean would rise and hide the first.
        ({31: 10.1, 50: 400, 77: 9.9}, "2 of 200 rows are outliers, 10 to 400 times .*, 1 of them"),
        # Squares beyond float32.
        ({3: 1e30}, "1 of 200"),
    ],
)
def test_the_few_are_found_however_large_they_are(lengths, sentence):
    found = open_activations(scaled(lengths), documents=DOCUMENTS).outliers
    rows = [row for row in lengths if lengths[row] > 10]
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.ratios, [lengths[row] for row in rows], rtol=1e-5)
    assert re.match(sentence, str(found))


@pytest.mark.parametrize("scale", [1e17, 1e-17])
def test_rows_whose_squares_float32_cannot_hold_are_refused(scale):
    for fits in (1e13, 1e-7):
        assert not len(open_activations(UNIT * np.float32(fits)).outliers.rows)
    with pytest.raises(ValueError, match="the activations have a median norm"):
        open_activations(UNIT * np.float32(scale)).without_outliers()


@pytest.mark.parametrize("zeros", [0, 99, 101, 200])
@pytest.mark.parametrize("module", [np, jnp])
def test_a_learner_sees_outliers_at_the_median_norm_of_rows_that_are_not_zeros(module, zeros):
    live = 2 * np.float32(np.arange(200) >= zeros)[:, None]
    usual = module.asarray(UNIT * live)
    assert outliers.scale_down(usual) is usual
    rows = scaled({198: 9, 199: 300}) * live
    seen = outliers.scale_down(module.asarray(rows))
    assert seen.dtype == rows.dtype
    np.testing.assert_array_equal(seen[:199], rows[:199])
    np.testing.assert_allclose(seen[199], usual[199], rtol=1e-5)
    found = open_activations(rows).outliers.ratios
    np.testing.assert_allclose(found, [300][: zeros < 200], rtol=1e-5)


@pytest.mark.parametrize("documents", [DOCUMENTS, None])
@pytest.mark.parametrize("seed", range(3))
def test_a_split_draws_the_same_documents_with_and_without_them(documents, seed):
    # Enough to change which documents bring the share nearest.
    rows = scaled(dict.fromkeys([*range(100, 108), 0, 51], 500))
    whole = open_activations(rows, documents=documents)
    lean = whole.without_outliers()
    assert lean.num_samples == 190 and lean.without_outliers() is lean
    for kept, part in zip(lean.split(0.22, seed), whole.split(0.22, seed), strict=True):
        usual = part.numbers[np.linalg.norm(rows[part.numbers], axis=1) < 2]
        np.testing.assert_array_equal(kept.numbers, usual)
