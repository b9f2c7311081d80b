"""Rows of several files are picked, chunked and split; a split keeps documents whole and every row
once.
"""

import pathlib

import numpy as np
import pytest

from sae_gap.data import Activations, Table

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
