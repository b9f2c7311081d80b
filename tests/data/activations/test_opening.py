"""Activations in files of every kind: the same rows come back, and a file that is wrong is one
sentence.
"""

import io
import os
import pathlib
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import save_file

from sae_gap.data.activations import open_activations, save_activations
from tests import torch_files
from tests.data.activations.test_rows import DOCUMENTS, ROWS


def arrow(path, table, *, file=False):
    with (
        pa.OSFile(str(path), "wb") as sink,
        (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=17)


def columns(rows, documents, *, fixed=False):
    lists = (
        pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
        if fixed
        else pa.array(list(rows))
    )
    return pa.table({"text": ["x"] * len(rows), "activations": lists, "documents": documents})


def parquet(path, table, **options):
    pa.parquet.write_table(table, path, **options)


def npy(path, rows, documents):
    np.save(path, rows)
    np.save(path.with_suffix(".documents.npy"), documents)


def by(save, *given, **named):
    return lambda path: save(path, *given, **named)


KINDS = {
    "npy": (".npy", npy),
    "npy by columns": (".npy", lambda path, rows, docs: npy(path, np.asfortranarray(rows), docs)),
    "npz": (
        ".npz",
        lambda path, rows, docs: np.savez(path, activations=rows, documents=docs, other=rows[0]),
    ),
    "compressed": (
        ".npz",
        lambda path, rows, docs: np.savez_compressed(path, activations=rows, documents=docs),
    ),
    "compressed by columns": (
        ".npz",
        lambda path, rows, docs: np.savez_compressed(
            path, activations=np.asfortranarray(rows), documents=docs
        ),
    ),
    "safetensors": (
        ".safetensors",
        lambda path, rows, docs: save_file({"a": rows, "documents": docs}, path),
    ),
    "pt": (
        ".pt",
        lambda path, rows, docs: torch_files.save(
            path, {"x": np.asfortranarray(rows), "documents": docs}
        ),
    ),
    "arrow": (".arrow", lambda path, rows, docs: arrow(path, columns(rows, docs))),
    "arrow file": (
        ".arrow",
        lambda path, rows, docs: arrow(path, columns(rows, docs, fixed=True), file=True),
    ),
    "parquet": (
        ".parquet",
        lambda path, rows, docs: parquet(path, columns(rows, docs), row_group_size=13),
    ),
}


def write(path, kind, rows=ROWS, documents=DOCUMENTS):
    suffix, save = KINDS[kind]
    save(path.with_suffix(suffix), rows, documents)
    return path.with_suffix(suffix)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_rows_back(tmp_path, kind):
    found = open_activations(write(tmp_path / "x", kind))
    assert (found.num_samples, found.input_dim) == ROWS.shape
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    for size in (7, 60):
        np.testing.assert_array_equal(np.concatenate(list(found.chunks(size))), ROWS)
    wanted = [59, 3, 3, 20, 0, 41]
    np.testing.assert_array_equal(found.take(wanted), ROWS[wanted])


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float64, ">f4", np.longdouble]
)
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "safetensors", "pt"])
def test_other_floats_become_float32(tmp_path, kind, dtype):
    if kind in ("safetensors", "pt") and dtype in (">f4", np.longdouble):
        dtype = np.float32
    rows = ROWS.astype(dtype)
    found = open_activations(write(tmp_path / "x", kind, rows, DOCUMENTS.astype(np.int32))).take(
        np.arange(60)
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.astype(np.float32))


def test_a_tensor_by_itself_is_mapped_and_a_file_beside_it_names_its_documents(tmp_path):
    torch_files.save(tmp_path / "x.pt", ROWS)
    np.save(tmp_path / "x.documents.npy", DOCUMENTS)
    found = open_activations(tmp_path / "x.pt")
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    # The rows are read when they are asked for, and not before.
    torch_files.save(tmp_path / "other.pt", 2 * ROWS)
    (tmp_path / "x.pt").write_bytes((tmp_path / "other.pt").read_bytes())
    np.testing.assert_array_equal(found.take([59, 3]), 2 * ROWS[[59, 3]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_documents_of_tokens_become_rows(tmp_path, save):
    save(tmp_path / "x.npz", layer=ROWS.reshape(6, 10, 5))
    found = open_activations(tmp_path / "x.npz", key="layer")
    np.testing.assert_array_equal(found.documents, np.repeat(np.arange(6), 10))
    np.testing.assert_array_equal(np.concatenate(list(found.chunks(7))), ROWS)
    for documents in ([5, 5, 1, 2, 3, 4], DOCUMENTS):
        save(tmp_path / "y.npz", layer=ROWS.reshape(6, 10, 5), documents=documents)
        found = open_activations(tmp_path / "y.npz")
        np.testing.assert_array_equal(found.documents, np.repeat(documents, 60 // len(documents)))


def test_a_folder_is_its_files_in_order(tmp_path, monkeypatch):
    for name, rows in (("b", ROWS[25:]), ("a", ROWS[:25].astype(np.float16))):
        np.save(tmp_path / f"{name}.npy", rows)
    (tmp_path / "README.md").write_text("not activations")
    os.mkfifo(tmp_path / "0.npy")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    found = open_activations(f"~/{tmp_path.name}")
    assert found.documents is None and [path.name for path in found.files] == ["a.npy", "b.npy"]
    np.testing.assert_allclose(np.concatenate(list(found.chunks(11))), ROWS, atol=1e-3, rtol=1e-3)


def test_documents_of_a_folder_are_told_apart(tmp_path):
    np.save(tmp_path / "a.npy", ROWS[:30].reshape(3, 10, 5))
    np.save(tmp_path / "b.npy", ROWS[30:].reshape(6, 5, 5))
    np.testing.assert_array_equal(
        open_activations(tmp_path).documents, np.repeat(np.arange(9), [10] * 3 + [5] * 6)
    )


@pytest.mark.parametrize("kind", ["npz", "safetensors", "arrow"])
def test_memory_holds_a_chunk_and_not_the_file(tmp_path, kind):
    rows = np.zeros((40_000, 50), np.float32)
    path = write(tmp_path / kind, kind, rows, np.zeros(len(rows), np.int32))
    tracemalloc.start()
    found = open_activations(path)
    total = sum(len(chunk) for chunk in found.chunks(1_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == len(rows) and peak < rows.nbytes / 2


def refusal(path, **options):
    with pytest.raises(ValueError) as error:
        list(open_activations(path, **options).chunks(16))
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert len(sentence.replace(str(path), "")) < 400
    return sentence


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_not_finite_is_named(tmp_path, kind):
    rows = ROWS.copy()
    rows[43, 2] = np.nan
    path = write(tmp_path / "x", kind, rows)
    assert f"row 43 of {path} has a NaN" in refusal(path)


class Booby:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def header(shape, descr="<f4"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def raw(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def cut(kind):
    def make(path):
        write(path.with_suffix(""), kind)
        path.write_bytes(path.read_bytes()[:-40])

    return make


def encrypted(path):
    np.savez(path, ROWS)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def spoiled(path):
    np.savez_compressed(path, activations=np.random.default_rng(0).normal(size=(9_000, 5)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def column(values):
    return pa.table({"a": pa.array(values)})


HUGE = 10**13
FLOAT8 = ROWS.astype(ml_dtypes.float8_e4m3fn)
OPEN_QUOTES = {"a.npy": raw(b"{'descr': '''<f4")}
NPY, NPZ, SAFE, ARROW, PARQUET = (
    f"x.{kind}" for kind in ("npy", "npz", "safetensors", "arrow", "parquet")
)
BAD = [
    (NPY, lambda path: None, "neither a file"),
    (NPY, os.mkfifo, "neither a file"),
    (NPY, os.mkdir, "holds no file of activations"),
    (NPZ, lambda path: path.write_bytes(b""), "cannot be read"),
    ("x.csv", lambda path: path.write_text("1,2"), "no ending"),
    (NPY, lambda path: path.write_text("some text that is no array"), "cannot be read"),
    (NPY, cut("npy"), "its header promises 1200 bytes"),
    (NPZ, cut("npz"), "cannot be read"),
    (SAFE, cut("safetensors"), "cannot be read"),
    (ARROW, cut("arrow"), "cannot be read"),
    (PARQUET, cut("parquet"), "cannot be read"),
    (NPY, lambda path: path.write_bytes(header((HUGE, HUGE)) + bytes(16)), "promises 4"),
    (NPZ, by(zipped, OPEN_QUOTES), "cannot be read"),
    (NPZ, by(zipped, {"a.npy": header((HUGE, 4)) + bytes(10**6)}), "promises 16"),
    (NPZ, encrypted, "encrypted"),
    (NPZ, spoiled, "cannot be read"),
    (NPY, by(np.save, ROWS[0]), "its shape is (5,)"),
    (NPY, by(np.save, ROWS.reshape(3, 4, 5, 5)), "its shape is (3, 4, 5, 5)"),
    (NPY, by(np.save, ROWS[:0]), "its shape is (0, 5)"),
    (NPY, by(np.save, np.ones((3, 2), int)), "they are int64"),
    (NPZ, by(np.savez, ROWS + 1j), "they are complex"),
    (SAFE, lambda path: save_file({"a": FLOAT8}, path), "has the type F8_E4M3"),
    (NPZ, by(np.savez, a=ROWS, b=ROWS), "several arrays, 'a', 'b'"),
    (NPZ, by(np.savez, documents=DOCUMENTS), "holds no activations"),
    (NPZ, by(np.savez, a=ROWS, documents=DOCUMENTS[1:]), "must be 60 integers"),
    (PARQUET, by(parquet, column([[1.0, 2.0], [3.0]])), "lists of [1, 2] numbers"),
    (ARROW, by(arrow, column([[1.0, None]])), "row 0 of"),
    (ARROW, by(arrow, column([[1.0], None])), "lists of [0, 1] numbers"),
    (ARROW, by(arrow, column([[[1.0]]])), "must hold a column of lists of floats"),
    (PARQUET, by(parquet, columns(ROWS, DOCUMENTS)[:0]), "must hold a column of lists"),
    ("x.pt", by(torch_files.archive, b"].", numbers=ROWS), "holds a list"),
    ("x.pt", by(torch_files.save, {"a": ROWS, "b": ROWS}), "several arrays, 'a', 'b'"),
    ("x.pt", by(torch_files.archive, b"].", extra=[("archive/byteorder", b"big")]), "big-endian"),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("name", "make", "words"), BAD)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, name, make, words):
    make(tmp_path / name)
    sentence = refusal(tmp_path / name)
    assert words in sentence and str(tmp_path / name) in sentence


def test_pickled_objects_are_never_loaded(tmp_path):
    trap = np.empty((2, 2), object)
    trap[:] = Booby(tmp_path / "trace")
    np.save(tmp_path / "x.npy", trap)
    np.savez(tmp_path / "x.npz", activations=ROWS, documents=trap)
    np.savez_compressed(tmp_path / "y.npz", trap)
    for name, message in (
        ("x.npy", "pickled objects"),
        ("y.npz", "pickled objects"),
        ("x.npz", "must be 60 integers"),
    ):
        assert message in refusal(tmp_path / name)
    assert not (tmp_path / "trace").exists()


def test_a_key_names_the_array(tmp_path):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS[:7])
    assert open_activations(tmp_path / "x.npz", key="b").num_samples == 7
    assert "has no array 'c'; choose one of 'a', 'b'" in refusal(tmp_path / "x.npz", key="c")
    np.save(tmp_path / "x.npy", ROWS)
    assert "leave out the key 'a'" in refusal(tmp_path / "x.npy", key="a")
    assert "names its own documents" in refusal(tmp_path / "x.npy", documents=DOCUMENTS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: (f / "train").mkdir(), "one of its folders, such as 'train'"),
        (
            lambda f: (np.save(f / "a", ROWS), np.save(f / "b", ROWS[:, 1:])),
            "b.npy .npy of width 4",
        ),
        (lambda f: (np.save(f / "a", ROWS), np.savez(f / "b", ROWS)), "b.npz .npz of width 5"),
        (
            lambda f: (np.savez(f / "a", ROWS), np.savez(f / "b", ROWS, documents=DOCUMENTS)),
            "b.npz .npz of width 5 with documents",
        ),
    ],
)
def test_a_bad_folder_is_refused(tmp_path, make, words):
    make(tmp_path)
    assert words in refusal(tmp_path)


def test_arrow_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "x", "parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install 'sae_gap[arrow]'" in refusal(path)


def test_what_is_saved_is_read_and_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_activations("~/new/x.npz", ROWS, DOCUMENTS, names=np.array(["a"]))
    found = open_activations(tmp_path / "new" / "x.npz")
    np.testing.assert_array_equal(found.take(np.arange(60)), ROWS)
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    for spoilt in (
        {"activations": np.array([object()])},
        {"activations": ROWS, "other": np.array([object()])},
    ):
        with pytest.raises(ValueError):
            save_activations(tmp_path / "new" / "x.npz", **spoilt)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.npz"]
    assert open_activations(tmp_path / "new" / "x.npz").num_samples == 60


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_an_array_in_memory_is_read_as_one_in_a_file_and_not_copied(dtype):
    rows = ROWS.astype(dtype)
    found = open_activations(rows, documents=DOCUMENTS)
    np.testing.assert_array_equal(found.take(np.arange(60)[::-1]), rows[::-1].astype(np.float32))
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    assert found.files == () and np.shares_memory(found._tables[0].read(0, 60), rows)
    for documents, names in ((None, np.arange(6)), ([5, 5, 1, 2, 3, 4], [5, 5, 1, 2, 3, 4])):
        found = open_activations(rows.reshape(6, 10, 5), documents=documents)
        np.testing.assert_array_equal(found.documents, np.repeat(names, 10))
        assert found.split()[1].num_samples == 10


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (ROWS.astype(int), {}, "the array must hold floating-point"),
        (ROWS[0], {}, r"its shape is \(5,\)"),
        (np.full((3, 2), np.nan, np.float32), {}, "row 0 of the array has a NaN"),
        (ROWS, {"documents": DOCUMENTS[1:]}, "must be 60 integers"),
        (ROWS, {"key": "a"}, "leave out the key 'a'"),
        (ROWS, {"documents": np.zeros(60, int)}, "one document alone"),
    ],
)
def test_an_array_that_is_wrong_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        list(open_activations(values, **options).split()[0].chunks(9))
