"""Activations in files of every kind: the same rows come back, and a file that is wrong is one
sentence.
"""

import os
import sys

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import save_file

from sae_gap.data import open_activations, save_activations
from tests import torch_files
from tests.data.activations.test_rows import DOCUMENTS, ROWS


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
    return pa.table({"text": ["x"] * len(a), "a": pa.array([*a]), "documents": documents})


def fixed(a, documents):
    lists = pa.FixedSizeListArray.from_arrays(a.ravel(), a.shape[1])
    return pa.table({"a": lists, "documents": documents})


# By the ending of the file and a word on it: how rows and documents are written, and another type.
KINDS = {
    "npy": (beside(np.save), ml_dtypes.bfloat16),
    "npz": (lambda path, **arrays: np.savez(path, activations=arrays["a"], **arrays), ">f4"),
    "npz compressed": (np.savez_compressed, ml_dtypes.bfloat16),
    "safetensors": (lambda path, **arrays: save_file(arrays, path), ml_dtypes.bfloat16),
    "pt": (lambda path, **arrays: torch_files.save(path, arrays), float),
    "pt alone": (beside(torch_files.save), ml_dtypes.bfloat16),
    "arrow": (lambda path, **arrays: arrow(path, columns(**arrays)), np.float16),
    "arrow file": (lambda path, **arrays: arrow(path, fixed(**arrays), pa.ipc.new_file), float),
    "parquet": (
        lambda path, **arrays: pa.parquet.write_table(columns(**arrays), path, row_group_size=20),
        float,
    ),
}


def write(folder, kind, rows=ROWS, documents=DOCUMENTS):
    path = folder / f"x.{kind.split()[0]}"
    KINDS[kind][0](path, a=rows, documents=documents)
    return path


def refused(call, *words):
    """Sees that a call is refused in one sentence with these words."""
    with pytest.raises(ValueError) as error:
        call()
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_rows_back_as_float32(tmp_path, kind):
    for dtype in (np.float32, KINDS[kind][1]):
        rows = ROWS.astype(dtype)
        found = open_activations(write(tmp_path, kind, rows, DOCUMENTS.astype(np.int32)))
        assert (found.num_samples, found.input_dim) == ROWS.shape
        np.testing.assert_array_equal(found.documents, DOCUMENTS)
        wanted = [59, 3, 3, 20, 0, 41]
        expected = rows[wanted].astype(np.float32)
        np.testing.assert_array_equal(found.take(wanted), expected, strict=True)
    # Memory holds what is asked for, and not the file.
    mapped = kind in ("npy", "npz", "safetensors")
    assert isinstance(found._tables[0].array, np.memmap) == mapped


@pytest.mark.parametrize("documents", [None, [5, 5, 1, 2, 3, 4], DOCUMENTS])
def test_documents_of_tokens_become_rows_of_an_array_that_is_not_copied(documents):
    rows = ROWS.reshape(6, 10, 5)
    found = open_activations(rows, documents=documents)
    assert found.files == () and np.shares_memory(found._tables[0].array, rows)
    names = np.arange(6) if documents is None else np.asarray(documents)
    np.testing.assert_array_equal(found.documents, np.repeat(names, 60 // len(names)))
    np.testing.assert_array_equal(np.concatenate([*found.chunks(7)]), ROWS)


def test_a_folder_is_its_files_in_order_and_tells_their_documents_apart(tmp_path):
    np.save(tmp_path / "b.npy", ROWS[30:].reshape(6, 5, 5))
    np.save(tmp_path / "a.npy", ROWS[:30].reshape(3, 10, 5))
    os.mkfifo(tmp_path / "0.npy")
    found = open_activations(tmp_path)
    assert [path.name for path in found.files] == ["a.npy", "b.npy"]
    np.testing.assert_array_equal(np.concatenate([*found.chunks(11)]), ROWS)
    np.testing.assert_array_equal(found.documents, np.repeat(np.arange(9), [10] * 3 + [5] * 6))


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
    return lambda path: [path.mkdir()] + [np.savez(path / n, **file) for n, file in files.items()]


BAD = [
    ("npy", os.mkfifo, "neither a file"),
    ("npy", lambda path: (path / "train").mkdir(parents=True), "such as one of its folders"),
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
    ("npy", folder(a={"a": ROWS}, b={"a": ROWS, "documents": DOCUMENTS}), "5 with documents"),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("kind", "make", "words"), BAD)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, kind, make, words):
    path = tmp_path / f"x.{kind}"
    make(path)
    refused(lambda: open_activations(path).pool(), words, str(path))


def test_wrong_arguments_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS[:7])
    assert open_activations(tmp_path / "x.npz", key="b").num_samples == 7
    refused(lambda: open_activations(tmp_path / "x.npz", key="c"), "choose one of a, b")
    refused(lambda: open_activations(ROWS, key="a"), "leave out the key 'a'")
    refused(lambda: open_activations("x.npz", documents=DOCUMENTS), "names its own documents")
    refused(lambda: open_activations(ROWS, documents=DOCUMENTS[1:]), "must be 60 integers")
    path = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(lambda: open_activations(path), "pip install 'sae_gap[arrow]'")


def test_what_is_saved_is_read_and_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "new" / "x.npz"
    save_activations("~/new/x.npz", ROWS, DOCUMENTS)
    monkeypatch.setattr(np, "savez", lambda file, **_: [][0])
    with pytest.raises(IndexError):
        save_activations(path, 2 * ROWS)
    assert [*path.parent.iterdir()] == [path]
    found = open_activations(path)
    np.testing.assert_array_equal(found.take(np.arange(60)), ROWS)
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
