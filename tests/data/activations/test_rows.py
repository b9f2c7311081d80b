"""Activations in files of every kind, and in a bucket: the same rows come back, picked, chunked and
split; a split keeps documents whole and every row once, outlier tokens are found by the median, and
a file that is wrong is one sentence.
"""

import itertools
import os
import sys
from pathlib import Path

import fsspec
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy import float32
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import fixture, mark, raises
from safetensors.numpy import save_file

from sae_gap.data import Activations, Table, fetched, open_activations, save_activations
from sae_gap.data.activations import outliers
from tests import torch_files
from tests.saes.examples import refused

ROWS = default_rng(0).normal(size=(60, 5)).astype(float32)
# Documents of unequal sizes, one of them in two places.
DOCUMENTS = np.repeat([3, 0, 7, 0, 9, 4], [8, 12, 5, 15, 11, 9])


def rows(values=ROWS, documents=DOCUMENTS, cut=25):
    """The rows of two files."""
    tables = []
    for place, part in enumerate(np.split(values, [cut])):
        named = documents if documents is None else np.split(documents, [cut])[place]
        tables.append(Table(Path(f"{place}.npy"), part, named))
    return Activations(tuple(tables), np.arange(len(values)))


def test_rows_are_chunked_and_picked_across_files():
    chunks = [*rows().chunks(7)]
    assert [len(chunk) for chunk in chunks] == [7] * 8 + [4]
    assert_array_equal(np.concatenate(chunks), ROWS, strict=True)
    for wanted in ([59, 3, 3, 25, 24, 0, 41], np.zeros(0, int)):
        assert_array_equal(rows().take(wanted), ROWS[wanted])
    # A sum in float32 would be off by 1e-5.
    tenths = np.full((9_000, 1), 0.1, float32)
    assert_allclose(rows(tenths, None).mean(), tenths[0], rtol=1e-7)


@mark.parametrize("seed", range(3))
def test_parts_hold_whole_documents_and_every_row_once(seed):
    parts = rows().split(0.25, seed)
    assert not set(parts[0].documents) & set(parts[1].documents)
    # Drawn as long as each brings the share nearer, so that it is off by less than half of some
    # document.
    assert abs(parts[1].num_samples - 15) <= 6
    for part in (*parts, *parts[0].split(0.3, 2)):
        own = np.isin(DOCUMENTS, part.documents)
        assert_array_equal(part.pool(), ROWS[own])
        assert_array_equal(part.documents, DOCUMENTS[own])
    assert sum(part.num_samples for part in parts) == 60


@mark.parametrize("place", [4, 59])
@mark.parametrize("documents", [None, DOCUMENTS])
def test_rows_that_are_split_in_another_way_have_another_fingerprint(place, documents):
    """The same rows may be left of more, by which a split draws."""
    loud = ROWS.copy()
    left = np.arange(60) != place
    loud[place] *= 1e3
    less, again = (rows(loud, documents, cut).without_outliers() for cut in (25, 30))
    alone = rows(ROWS[left], documents if documents is None else documents[left])
    assert_array_equal(less.take(np.arange(59)), alone.take(np.arange(59)))
    assert less.fingerprint == again.fingerprint != alone.fingerprint
    assert (documents is None) == (
        alone.fingerprint == rows(ROWS[left], None).fingerprint
    )


@mark.parametrize(("alike", "shortest"), [(1, 100), (100, 500)])
def test_rows_of_unknown_documents_are_held_out_in_runs_longer_than_they_correlate(
    alike, shortest
):
    noise = default_rng(0).normal(size=10_000)
    train, held = rows(np.convolve(noise, np.ones(alike), "same")[:, None], None).split(
        0.1
    )
    assert train.documents is None and 500 < held.num_samples < 1_500
    ends = np.flatnonzero(np.diff(held.numbers, prepend=-2, append=20_000) != 1)
    assert np.diff(ends).min() >= shortest


@mark.parametrize("sizes", [[1, 59], [59, 1], [1] * 60])
@mark.parametrize("share", [1e-6, 0.5, 0.999])
def test_neither_part_is_ever_empty(sizes, share):
    parts = rows(documents=np.repeat(np.arange(len(sizes)), sizes)).split(share)
    assert all(part.num_samples for part in parts)


@mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_a_row_that_is_not_finite_in_float32_is_named(value):
    values = ROWS.astype(float)
    values[43, 2] = value
    found = rows(values)
    found.take([1, 42, 44])
    for wanted in ([1, 43], [40, 43]):
        with raises(ValueError, match=r"row 18 of 1\.npy has a NaN or an infinity"):
            found.take(wanted)


def test_bad_arguments_are_refused():
    for number, words in (
        (60, "index 60 is out of bounds"),
        (-1, "numbered from 0 to 59"),
    ):
        with raises(IndexError, match=words):
            rows().take([number])
    with raises(ValueError, match="held_out must be"):
        rows().split(1)
    with raises(ValueError, match="holds one document alone"):
        rows(documents=np.zeros(60, int)).split()


# 200 unit rows, ten to a document.
UNIT = default_rng(0).normal(size=(200, 6))
UNIT = (UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True)).astype(float32)
TENS = np.arange(200) // 10


def scaled(lengths):
    """The unit rows, those of some numbers scaled."""
    return (
        UNIT * np.array([lengths.get(row, 1) for row in range(200)], float32)[:, None]
    )


@mark.parametrize("lengths", [{77: 9.9}, {31: 10.1, 50: 400, 77: 9.9}, {3: 1e30}])
def test_the_few_outliers_are_found_however_large_they_are(lengths):
    """A mean would rise with the large ones and hide others; their squares are beyond float32."""
    found = open_activations(scaled(lengths), documents=TENS).outliers
    large = {row: length for row, length in lengths.items() if length > 10}
    assert_array_equal(found.rows, [*large])
    assert_allclose(found.ratios, [*large.values()], rtol=1e-5)
    if len(large) == 2:
        words = "2 of 200 rows are outliers, 10 to 400 times as long as the median row, 1 of them"
        assert str(found).startswith(words)


@mark.parametrize("scale", [1e17, 1e-17])
def test_rows_whose_squares_float32_cannot_hold_are_refused(scale):
    for fits in (1e13, 1e-7):
        assert not len(open_activations(UNIT * float32(fits)).outliers.rows)
    with raises(ValueError, match="the activations have a median norm"):
        open_activations(UNIT * float32(scale)).without_outliers()


@mark.parametrize("zeros", [0, 99, 101, 200])
@mark.parametrize("module", [np, jnp])
def test_a_learner_sees_outliers_at_the_median_norm_of_rows_that_are_not_zeros(
    module, zeros
):
    live = 2 * float32(np.arange(200) >= zeros)[:, None]
    usual = module.asarray(UNIT * live)
    assert outliers.scale_down(usual) is usual
    rows = scaled({198: 9, 199: 300}) * live
    seen = outliers.scale_down(module.asarray(rows))
    assert seen.dtype == rows.dtype
    assert_array_equal(seen[:199], rows[:199])
    assert_allclose(seen[199], usual[199], rtol=1e-5)
    assert len(open_activations(rows).outliers.rows) == (zeros < 200)


@mark.parametrize("documents", [TENS, None])
@mark.parametrize("seed", range(3))
def test_a_split_draws_the_same_documents_with_and_without_them(documents, seed):
    # Enough to change which documents bring the share nearest.
    rows = scaled(dict.fromkeys([*range(100, 108), 0, 51], 500))
    whole = open_activations(rows, documents=documents)
    lean = whole.without_outliers()
    assert lean.num_samples == 190 and lean.without_outliers() is lean
    for kept, part in zip(lean.split(0.22, seed), whole.split(0.22, seed), strict=True):
        usual = part.numbers[np.linalg.norm(rows[part.numbers], axis=1) < 2]
        assert_array_equal(kept.numbers, usual)


def beside(save):
    """Saves rows by columns, and their documents in a file beside them."""

    def write(path, a, documents):
        save(path, np.asfortranarray(a))
        np.save(path.with_suffix(".documents.npy"), documents)

    return write


def arrow(path, table, new=pa.ipc.new_stream):
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=17)


def columns(a, documents):
    return pa.table(
        {"text": ["x"] * len(a), "a": pa.array([*a]), "documents": documents}
    )


def fixed(a, documents):
    lists = pa.FixedSizeListArray.from_arrays(a.ravel(), a.shape[1])
    return pa.table({"a": lists, "documents": documents})


# By the ending of the file and a word on it: how rows and documents are written, and another type.
KINDS = {
    "npy": (beside(np.save), ml_dtypes.bfloat16),
    "npz": (
        lambda path, **arrays: np.savez(path, activations=arrays["a"], **arrays),
        ">f4",
    ),
    "npz compressed": (np.savez_compressed, ml_dtypes.bfloat16),
    "safetensors": (lambda path, **arrays: save_file(arrays, path), ml_dtypes.bfloat16),
    "pt": (lambda path, **arrays: torch_files.save(path, arrays), float),
    "pt alone": (beside(torch_files.save), ml_dtypes.bfloat16),
    "arrow": (lambda path, **arrays: arrow(path, columns(**arrays)), np.float16),
    "arrow file": (
        lambda path, **arrays: arrow(path, fixed(**arrays), pa.ipc.new_file),
        float,
    ),
    "parquet": (
        lambda path, **arrays: pa.parquet.write_table(
            columns(**arrays), path, row_group_size=20
        ),
        float,
    ),
}


def write(folder, kind, rows=ROWS, documents=DOCUMENTS):
    path = folder / f"x.{kind.split()[0]}"
    KINDS[kind][0](path, a=rows, documents=documents)
    return path


@mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_rows_back_as_float32(tmp_path, kind):
    for dtype in (float32, KINDS[kind][1]):
        rows = ROWS.astype(dtype)
        found = open_activations(
            write(tmp_path, kind, rows, DOCUMENTS.astype(np.int32))
        )
        assert (found.num_samples, found.input_dim) == ROWS.shape
        assert_array_equal(found.documents, DOCUMENTS)
        wanted = [59, 3, 3, 20, 0, 41]
        expected = rows[wanted].astype(float32)
        assert_array_equal(found.take(wanted), expected, strict=True)
    # Memory holds what is asked for, and not the file.
    mapped = kind in ("npy", "npz", "safetensors")
    assert isinstance(found._tables[0].array, np.memmap) == mapped


@mark.parametrize("documents", [None, [5, 5, 1, 2, 3, 4], DOCUMENTS])
def test_documents_of_tokens_become_rows_of_an_array_that_is_not_copied(documents):
    rows = ROWS.reshape(6, 10, 5)
    found = open_activations(rows, documents=documents)
    assert found.files == () and np.shares_memory(found._tables[0].array, rows)
    names = np.arange(6) if documents is None else np.asarray(documents)
    assert_array_equal(found.documents, np.repeat(names, 60 // len(names)))
    assert_array_equal(np.concatenate([*found.chunks(7)]), ROWS)


def test_a_folder_is_its_files_in_order_and_tells_their_documents_apart(tmp_path):
    np.save(tmp_path / "b.npy", ROWS[30:].reshape(6, 5, 5))
    np.save(tmp_path / "a.npy", ROWS[:30].reshape(3, 10, 5))
    os.mkfifo(tmp_path / "0.npy")
    found = open_activations(tmp_path)
    assert [path.name for path in found.files] == ["a.npy", "b.npy"]
    assert_array_equal(np.concatenate([*found.chunks(11)]), ROWS)
    assert_array_equal(found.documents, np.repeat(np.arange(9), [10] * 3 + [5] * 6))


class Booby:
    """Unpickling it ends the process."""

    def __reduce__(self):
        return sys.exit, ()


TRAP = np.full((2, 2), Booby(), object)


def by(save, *given, **named):
    return lambda path: save(path, *given, **named)


def cut(path):
    write(path.parent, path.suffix[1:])
    path.write_bytes(path.read_bytes()[:-40])


def lie(path):
    write(path.parent, path.suffix[1:])
    path.write_bytes(path.read_bytes().replace(b"(60, 5)", b"(59, 5)"))


def column(*values):
    return by(arrow, pa.table({"a": pa.array(values)}))


def folder(**files):
    """Writes a folder of files of arrays."""
    return lambda path: (
        [path.mkdir()] + [np.savez(path / n, **file) for n, file in files.items()]
    )


BAD = [
    ("npy", os.mkfifo, "neither a file"),
    (
        "npy",
        lambda path: (path / "train").mkdir(parents=True),
        "such as one of its folders",
    ),
    ("csv", lambda path: path.write_text("1,2"), "no ending"),
    *((kind, cut, "cannot be read") for kind in ("npy", "npz", "safetensors", "arrow")),
    *((kind, lie, "number of bytes") for kind in ("npy", "npz")),
    ("npz", by(np.savez_compressed, ROWS[:0]), "its shape is (0, 5)"),
    ("npy", by(np.save, np.ones((3, 2), int)), "they are int64"),
    ("npy", by(np.save, TRAP), "they are object"),
    ("npz", by(np.savez, a=ROWS, documents=TRAP), "60 integers"),
    ("npz", by(np.savez, a=ROWS, b=ROWS), "several arrays, a, b"),
    ("npz", by(np.savez, documents=DOCUMENTS), "holds no activations"),
    ("arrow", column([1.0, 2.0], None), "lists of [0, 2] numbers"),
    ("arrow", column([1.0, None]), "row 0 of"),
    ("arrow", by(arrow, columns(ROWS, DOCUMENTS)[:0]), "must hold a column of lists"),
    ("pt", by(torch_files.archive, b"].", numbers=ROWS), "holds a list"),
    ("npy", folder(a={"a": ROWS}, b={"a": ROWS[:, 1:]}), "b.npz .npz of width 4"),
    (
        "npy",
        folder(a={"a": ROWS}, b={"a": ROWS, "documents": DOCUMENTS}),
        "5 with documents",
    ),
]


@mark.filterwarnings("error::RuntimeWarning")
@mark.parametrize(("kind", "make", "words"), BAD)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, kind, make, words):
    path = tmp_path / f"x.{kind}"
    make(path)
    refused(lambda: open_activations(path).pool(), words, str(path))


def test_wrong_arguments_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS[:7])
    assert open_activations(tmp_path / "x.npz", key="b").num_samples == 7
    refused(lambda: open_activations(tmp_path / "x.npz", key="c"), "choose one of a, b")
    refused(lambda: open_activations(ROWS, key="a"), "leave out the key 'a'")
    refused(
        lambda: open_activations("x.npz", documents=DOCUMENTS),
        "names its own documents",
    )
    refused(
        lambda: open_activations(ROWS, documents=DOCUMENTS[1:]), "must be 60 integers"
    )
    path = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(lambda: open_activations(path), "pip install 'sae_gap[arrow]'")


def test_what_is_saved_is_read_and_a_write_that_fails_leaves_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "new" / "x.npz"
    save_activations("~/new/x.npz", ROWS, DOCUMENTS)
    monkeypatch.setattr(np, "savez", lambda file, **_: [][0])
    with raises(IndexError):
        save_activations(path, 2 * ROWS)
    assert [*path.parent.iterdir()] == [path]
    found = open_activations(path)
    assert_array_equal(found.take(np.arange(60)), ROWS)
    assert_array_equal(found.documents, DOCUMENTS)


NAMES = "rows.documents.npy", "rows.npy"


@fixture
def bucket(tmp_path, monkeypatch):
    """A bucket that lies in memory. Over HTTP a server may sign an object's URL anew each time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    signed = itertools.count()
    info = store.info
    monkeypatch.setattr(
        type(store), "info", lambda _, *path: info(*path) | {"url": next(signed)}
    )
    store.pipe(
        {f"/bucket/{name}": name.encode() for name in (*NAMES, "inner/other.npy")}
    )
    yield store
    store.rm("/bucket", recursive=True)


def test_each_version_of_a_file_with_its_documents_or_of_a_folder_is_copied_once(
    bucket, tmp_path
):
    assert fetched(tmp_path / "x.npy") == fetched("~/x.npy") == tmp_path / "x.npy"
    for url in ("memory://bucket/rows.npy", "memory://bucket"):
        copy = fetched(url) if url.endswith("npy") else fetched(url) / "rows.npy"
        assert sorted(file.name for file in copy.parent.iterdir()) == [*NAMES]
        copy.write_bytes(b"once")
        assert fetched(url) in (copy, copy.parent) and copy.read_bytes() == b"once"
        bucket.pipe("/bucket/rows.npy", url.encode())
        assert fetched(url).exists() and not copy.exists()
        # Nothing is left beside the copy.
        assert len([*copy.parents[1].iterdir()]) == 1


@mark.parametrize(
    ("url", "fault"),
    [
        ("memory://bucket/none.npy", "is neither a file nor a folder"),
        ("nowhere://bucket/x.npy", "cannot be reached (Protocol not known: nowhere)"),
        ("memory://bucket/rows.npy", "cannot be copied to"),
    ],
)
def test_what_cannot_be_copied_is_one_sentence(bucket, tmp_path, url, fault):
    if "copied" in fault:
        (tmp_path / "cache").write_text("a file in the place of the cache")
    refused(lambda: open_activations(url), fault)
