"""Rows of several files are picked, chunked and split; a split keeps documents whole and every row
once, and outlier tokens, which are found by the median, move no other row to another part.
"""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.data import Activations, Table, open_activations
from sae_gap.data.activations import outliers

ROWS = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
# Documents of unequal sizes, one of them in two places.
DOCUMENTS = np.repeat([3, 0, 7, 0, 9, 4], [8, 12, 5, 15, 11, 9])


def rows(values=ROWS, documents=DOCUMENTS, cut=25):
    """The rows of two files."""
    tables = []
    for place, part in enumerate(np.split(values, [cut])):
        named = documents if documents is None else np.split(documents, [cut])[place]
        tables.append(Table(pathlib.Path(f"{place}.npy"), part, named))
    return Activations(tuple(tables), np.arange(len(values)))


def test_rows_are_chunked_and_picked_across_files():
    chunks = [*rows().chunks(7)]
    assert [len(chunk) for chunk in chunks] == [7] * 8 + [4]
    np.testing.assert_array_equal(np.concatenate(chunks), ROWS, strict=True)
    for wanted in ([59, 3, 3, 25, 24, 0, 41], np.zeros(0, int)):
        np.testing.assert_array_equal(rows().take(wanted), ROWS[wanted])
    # A sum in float32 would be off by 1e-5.
    tenths = np.full((9_000, 1), 0.1, np.float32)
    np.testing.assert_allclose(rows(tenths, None).mean(), tenths[0], rtol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_parts_hold_whole_documents_and_every_row_once(seed):
    parts = rows().split(0.25, seed)
    assert not set(parts[0].documents) & set(parts[1].documents)
    # Drawn as long as each brings the share nearer, so that it is off by less than half of some
    # document.
    assert abs(parts[1].num_samples - 15) <= 6
    for part in (*parts, *parts[0].split(0.3, 2)):
        own = np.isin(DOCUMENTS, part.documents)
        np.testing.assert_array_equal(part.pool(), ROWS[own])
        np.testing.assert_array_equal(part.documents, DOCUMENTS[own])
    assert sum(part.num_samples for part in parts) == 60


@pytest.mark.parametrize("place", [4, 59])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_rows_that_are_split_in_another_way_have_another_fingerprint(place, documents):
    """The same rows may be left of more, by which a split draws."""
    loud, left = ROWS.copy(), np.arange(60) != place
    loud[place] *= 1e3
    less, again = (rows(loud, documents, cut).without_outliers() for cut in (25, 30))
    alone = rows(ROWS[left], documents if documents is None else documents[left])
    np.testing.assert_array_equal(less.take(np.arange(59)), alone.take(np.arange(59)))
    assert less.fingerprint == again.fingerprint != alone.fingerprint
    assert (documents is None) == (alone.fingerprint == rows(ROWS[left], None).fingerprint)


@pytest.mark.parametrize(("alike", "shortest"), [(1, 100), (100, 500)])
def test_rows_of_unknown_documents_are_held_out_in_runs_longer_than_they_correlate(alike, shortest):
    noise = np.random.default_rng(0).normal(size=10_000)
    train, held = rows(np.convolve(noise, np.ones(alike), "same")[:, None], None).split(0.1)
    assert train.documents is None and 500 < held.num_samples < 1_500
    ends = np.flatnonzero(np.diff(held.numbers, prepend=-2, append=20_000) != 1)
    assert np.diff(ends).min() >= shortest


@pytest.mark.parametrize("sizes", [[1, 59], [59, 1], [1] * 60])
@pytest.mark.parametrize("share", [1e-6, 0.5, 0.999])
def test_neither_part_is_ever_empty(sizes, share):
    parts = rows(documents=np.repeat(np.arange(len(sizes)), sizes)).split(share)
    assert all(part.num_samples for part in parts)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_a_row_that_is_not_finite_in_float32_is_named(value):
    values = ROWS.astype(float)
    values[43, 2] = value
    found = rows(values)
    found.take([1, 42, 44])
    for wanted in ([1, 43], [40, 43]):
        with pytest.raises(ValueError, match=r"row 18 of 1\.npy has a NaN or an infinity"):
            found.take(wanted)


def test_bad_arguments_are_refused():
    for number, words in ((60, "index 60 is out of bounds"), (-1, "numbered from 0 to 59")):
        with pytest.raises(IndexError, match=words):
            rows().take([number])
    with pytest.raises(ValueError, match="held_out must be"):
        rows().split(1)
    with pytest.raises(ValueError, match="holds one document alone"):
        rows(documents=np.zeros(60, int)).split()


# 200 unit rows, ten to a document.
UNIT = np.random.default_rng(0).normal(size=(200, 6))
UNIT = (UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True)).astype(np.float32)
TENS = np.arange(200) // 10


def scaled(lengths):
    """The unit rows, those of some numbers scaled."""
    return UNIT * np.array([lengths.get(row, 1) for row in range(200)], np.float32)[:, None]


@pytest.mark.parametrize("lengths", [{77: 9.9}, {31: 10.1, 50: 400, 77: 9.9}, {3: 1e30}])
def test_the_few_outliers_are_found_however_large_they_are(lengths):
    """A mean would rise with the large ones and hide others; their squares are beyond float32."""
    found = open_activations(scaled(lengths), documents=TENS).outliers
    large = {row: length for row, length in lengths.items() if length > 10}
    np.testing.assert_array_equal(found.rows, [*large])
    np.testing.assert_allclose(found.ratios, [*large.values()], rtol=1e-5)
    if len(large) == 2:
        words = "2 of 200 rows are outliers, 10 to 400 times as long as the median row, 1 of them"
        assert str(found).startswith(words)


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
    assert len(open_activations(rows).outliers.rows) == (zeros < 200)


@pytest.mark.parametrize("documents", [TENS, None])
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
