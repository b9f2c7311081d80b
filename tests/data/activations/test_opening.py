"""Activations in files of every kind: the same rows come back, and a file that is wrong is one
sentence.
"""

import os
import pathlib
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import save_file

from sae_gap.data import open_activations, save_activations
from tests import torch_files
from tests.data.activations.test_rows import DOCUMENTS, ROWS


def npy(path, rows, documents):
    np.save(path, rows)
    np.save(path.with_suffix(".documents.npy"), documents)


def arrow(path, table, new=pa.ipc.new_stream):
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=17)


def parquet(path, table):
    pa.parquet.write_table(table, path, row_group_size=len(table) // 2)


def columns(rows, documents):
    return pa.table({"text": ["x"] * len(rows), "a": pa.array([*rows]), "documents": documents})


def fixed(rows, documents):
    lists = pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
    return pa.table({"a": lists, "documents": documents})


# By the ending of the file and a word on it.
KINDS = {
    "npy": npy,
    "npy by columns": lambda path, rows, docs: npy(path, np.asfortranarray(rows), docs),
    "npz": lambda path, rows, docs: np.savez(path, activations=rows, documents=docs, other=docs),
    "npz compressed": lambda path, rows, docs: np.savez_compressed(
        path, activations=np.asfortranarray(rows), documents=docs
    ),
    "safetensors": lambda path, rows, docs: save_file({"a": rows, "documents": docs}, path),
    "pt": lambda path, rows, docs: torch_files.save(
        path, {"x": np.asfortranarray(rows), "documents": docs}
    ),
    "arrow": lambda path, rows, docs: arrow(path, columns(rows, docs)),
    "arrow file": lambda path, rows, docs: arrow(path, fixed(rows, docs), pa.ipc.new_file),
    "parquet": lambda path, rows, docs: parquet(path, columns(rows, docs)),
}


def write(folder, kind, rows=ROWS, documents=DOCUMENTS):
    path = folder / f"x.{kind.split()[0]}"
    KINDS[kind](path, rows, documents)
    return path


def refusal(source, **options):
    with pytest.raises(ValueError) as error:
        list(open_activations(source, **options).split()[0].chunks(9))
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500
    return sentence


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_rows_back_and_names_one_that_is_not_finite(tmp_path, kind):
    found = open_activations(write(tmp_path, kind))
    assert (found.num_samples, found.input_dim) == ROWS.shape
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    np.testing.assert_array_equal(np.concatenate([*found.chunks(7)]), ROWS)
    wanted = [59, 3, 3, 20, 0, 41]
    np.testing.assert_array_equal(found.take(wanted), ROWS[wanted])
    rows = ROWS.copy()
    rows[43, 2] = np.nan
    path = write(tmp_path, kind, rows)
    assert f"row 43 of {path} has a NaN" in refusal(path)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ">f4", np.longdouble])
@pytest.mark.parametrize("kind", ["npy", "npz compressed", "safetensors", "pt"])
def test_other_floats_become_float32(tmp_path, kind, dtype):
    if kind in ("safetensors", "pt") and dtype in (">f4", np.longdouble):
        dtype = float
    rows = ROWS.astype(dtype)
    path = write(tmp_path, kind, rows, DOCUMENTS.astype(np.int32))
    found = open_activations(path).take(np.arange(60))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.astype(np.float32))


def test_a_tensor_by_itself_is_mapped_and_a_file_beside_it_names_its_documents(tmp_path):
    path = tmp_path / "x.pt"
    npy(path.with_suffix(".npy"), ROWS, DOCUMENTS)
    torch_files.save(path, ROWS)
    found = open_activations(path)
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    # The rows are read when they are asked for, and not before.
    torch_files.save(tmp_path / "other.pt", 2 * ROWS)
    path.write_bytes((tmp_path / "other.pt").read_bytes())
    np.testing.assert_array_equal(found.take([59, 3]), 2 * ROWS[[59, 3]])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, float])
@pytest.mark.parametrize("save", [None, np.savez, np.savez_compressed])
@pytest.mark.parametrize("documents", [None, [5, 5, 1, 2, 3, 4], DOCUMENTS])
def test_documents_of_tokens_become_rows(tmp_path, save, documents, dtype):
    rows = ROWS.astype(dtype).reshape(6, 10, 5)
    if save is None:
        found = open_activations(rows, documents=documents)
        # An array in memory is not copied.
        assert found.files == () and np.shares_memory(found._tables[0].read(0, 60), rows)
    else:
        named = {} if documents is None else {"documents": documents}
        save(tmp_path / "x.npz", layer=rows, **named)
        found = open_activations(tmp_path / "x.npz", key="layer")
    names = np.arange(6) if documents is None else np.asarray(documents)
    np.testing.assert_array_equal(found.documents, np.repeat(names, 60 // len(names)))
    expected = rows.reshape(60, 5).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([*found.chunks(7)]), expected)


def test_a_folder_is_its_files_in_order_and_tells_their_documents_apart(tmp_path, monkeypatch):
    np.save(tmp_path / "b.npy", ROWS[30:].reshape(6, 5, 5))
    np.save(tmp_path / "a.npy", ROWS[:30].reshape(3, 10, 5).astype(np.float16))
    (tmp_path / "README.md").write_text("not activations")
    os.mkfifo(tmp_path / "0.npy")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    found = open_activations(f"~/{tmp_path.name}")
    assert [path.name for path in found.files] == ["a.npy", "b.npy"]
    np.testing.assert_allclose(np.concatenate([*found.chunks(11)]), ROWS, atol=1e-3, rtol=1e-3)
    np.testing.assert_array_equal(found.documents, np.repeat(np.arange(9), [10] * 3 + [5] * 6))


@pytest.mark.parametrize("kind", ["npz", "safetensors", "arrow", "parquet"])
def test_memory_holds_a_chunk_and_not_the_file(tmp_path, kind):
    rows = np.zeros((40_000, 50), np.float32)
    path = write(tmp_path, kind, rows, np.zeros(len(rows), np.int32))
    tracemalloc.start()
    found, taken = open_activations(path), pa.total_allocated_bytes()
    total = sum(len(chunk) for chunk in found.chunks(1_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == len(rows) and taken + peak < rows.nbytes / 2


class Booby:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def by(save, *given, **named):
    return lambda path: save(path, *given, **named)


def cut(path):
    write(path.parent, path.suffix[1:])
    path.write_bytes(path.read_bytes()[:-40])


def encrypted(path):
    np.savez(path, ROWS)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def column(values):
    return pa.table({"a": pa.array(values)})


def folder(*files):
    """Writes files of a folder, by letters: how, the array and others."""

    def make(path):
        path.mkdir()
        for name, (save, array, *others) in zip("ab", files, strict=True):
            save(path / name, array, **dict(*others))

    return make


DOCS = {"documents": DOCUMENTS}
BAD = [
    ("npy", os.mkfifo, "neither a file"),
    ("npy", os.mkdir, "holds no file of activations"),
    ("npy", lambda path: (path / "train").mkdir(parents=True), "its folders, such as 'train'"),
    ("csv", lambda path: path.write_text("1,2"), "no ending"),
    ("npy", cut, "its header promises 1200 bytes"),
    *((kind, cut, "cannot be read") for kind in ("npz", "safetensors", "arrow", "parquet")),
    ("npz", encrypted, "encrypted"),
    ("npy", by(np.save, ROWS[0]), "its shape is (5,)"),
    ("npy", by(np.save, ROWS[:0]), "its shape is (0, 5)"),
    ("npy", by(np.save, np.ones((3, 2), int)), "they are int64"),
    ("safetensors", lambda path: save_file({"a": ROWS.astype(np.uint8)}, path), "has the type U8"),
    ("npz", by(np.savez, a=ROWS, b=ROWS), "several arrays, 'a', 'b'"),
    ("npz", by(np.savez, **DOCS), "holds no activations"),
    ("npz", by(np.savez, a=ROWS, documents=DOCUMENTS[1:]), "must be 60 integers"),
    ("parquet", by(parquet, column([[1.0, 2.0], [3.0]])), "lists of [1, 2] numbers"),
    ("arrow", by(arrow, column([[1.0, None]])), "row 0 of"),
    ("arrow", by(arrow, column([[1.0], None])), "lists of [0, 1] numbers"),
    ("arrow", by(arrow, columns(ROWS, DOCUMENTS)[:0]), "must hold a column of lists"),
    ("pt", by(torch_files.archive, b"].", numbers=ROWS), "holds a list"),
]
# Of two files in a folder.
BAD += [
    ("npy", folder((np.save, ROWS), (np.save, ROWS[:, 1:])), "b.npy .npy of width 4"),
    ("npy", folder((np.save, ROWS), (np.savez, ROWS)), "b.npz .npz of width 5"),
    ("npy", folder((np.savez, ROWS), (np.savez, ROWS, DOCS)), "of width 5 with documents"),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("kind", "make", "words"), BAD)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, kind, make, words):
    path = tmp_path / f"x.{kind}"
    make(path)
    sentence = refusal(path)
    assert words in sentence and str(path) in sentence


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.full((30, 2), np.nan, np.float32), {}, " of the array has a NaN"),
        (ROWS, {"documents": DOCUMENTS[1:]}, "must be 60 integers"),
        (ROWS, {"key": "a"}, "leave out the key 'a'"),
        (ROWS, {"documents": np.zeros(60, int)}, "one document alone"),
    ],
)
def test_an_array_that_is_wrong_is_refused(values, options, words):
    assert words in refusal(values, **options)


def test_pickled_objects_are_never_loaded(tmp_path):
    trap = np.empty((2, 2), object)
    trap[:] = Booby(tmp_path / "trace")
    np.save(tmp_path / "x.npy", trap)
    np.savez(tmp_path / "x.npz", activations=ROWS, documents=trap)
    np.savez_compressed(tmp_path / "y.npz", trap)
    for name, fault in (("x.npy", "pickled"), ("y.npz", "pickled"), ("x.npz", "60 integers")):
        assert fault in refusal(tmp_path / name)
    assert not (tmp_path / "trace").exists()


def test_a_key_names_the_array(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS[:7])
    assert open_activations(tmp_path / "x.npz", key="b").num_samples == 7
    assert "has no array 'c'; choose one of 'a', 'b'" in refusal(tmp_path / "x.npz", key="c")
    path = write(tmp_path, "npy")
    assert "leave out the key 'a'" in refusal(path, key="a")
    assert "names its own documents" in refusal(path, documents=DOCUMENTS)
    path = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'sae_gap[arrow]'" in refusal(path)


def test_what_is_saved_is_read_and_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path, odd = tmp_path / "new" / "x.npz", np.array([object()])
    save_activations("~/new/x.npz", ROWS, DOCUMENTS, names=np.array(["a"]))
    for spoilt in ({"activations": odd}, {"activations": ROWS, "other": odd}):
        with pytest.raises(ValueError):
            save_activations(path, **spoilt)
    assert [*path.parent.iterdir()] == [path]
    found = open_activations(path)
    np.testing.assert_array_equal(found.take(np.arange(60)), ROWS)
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
