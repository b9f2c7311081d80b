"""Activations in files of every kind: the same rows come back, parts keep documents whole, and what is wrong is said."""

import io
import itertools
import json
import pathlib
import pickle
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import save_file

from sae_gap.data.activations import open_activations, save_activations
from sae_gap.data.activations.layout import Array, as_table

ROWS = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
# Documents of unequal sizes, not all of a piece.
DOCUMENTS = np.repeat([3, 0, 7, 0, 9, 4], [8, 12, 5, 15, 11, 9])


def arrow(path, table, *, file=False):
    with pa.OSFile(str(path), "wb") as sink, (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=17)


def lists(rows, *, fixed=False):
    return pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1]) if fixed else pa.array(list(rows))


def columns(rows, documents, **options):
    return pa.table({"text": ["x"] * len(rows), "activations": lists(rows, **options), "documents": documents})


def npy(path, rows, documents):
    np.save(path, rows)
    np.save(path.with_suffix(".documents.npy"), documents)


KINDS = {
    "npy": (".npy", npy),
    "npy by columns": (".npy", lambda path, rows, documents: npy(path, np.asfortranarray(rows), documents)),
    "npz": (".npz", lambda path, rows, documents: np.savez(path, activations=rows, documents=documents, other=rows[0])),
    "compressed": (".npz", lambda path, rows, documents: np.savez_compressed(path, activations=rows, documents=documents)),
    "safetensors": (".safetensors", lambda path, rows, documents: save_file({"a": rows, "documents": documents}, path)),
    "arrow": (".arrow", lambda path, rows, documents: arrow(path, columns(rows, documents))),
    "arrow file": (".arrow", lambda path, rows, documents: arrow(path, columns(rows, documents, fixed=True), file=True)),
    "parquet": (".parquet", lambda path, rows, docs: pa.parquet.write_table(columns(rows, docs), path, row_group_size=13)),
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
    for size in (1, 7, 60, 1_000):
        chunks = list(found.chunks(size))
        assert {len(chunk) for chunk in chunks[:-1]} <= {size} and all(chunk.dtype == np.float32 for chunk in chunks)
        np.testing.assert_array_equal(np.concatenate(chunks), ROWS)
    wanted = [59, 3, 3, 20, 0, 41]
    np.testing.assert_array_equal(found.take(wanted), ROWS[wanted])
    assert found.take([]).shape == (0, 5)
    np.testing.assert_allclose(found.mean(), ROWS.mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_hold_whole_documents_and_every_row_once(tmp_path, kind):
    whole = open_activations(write(tmp_path / "x", kind))
    for seed in range(3):
        parts = whole.split(0.25, seed)
        assert not set(parts[0].documents) & set(parts[1].documents)
        assert abs(parts[1].num_samples - 15) <= 6
        for part in parts:
            own = np.isin(DOCUMENTS, part.documents)
            np.testing.assert_array_equal(np.concatenate(list(part.chunks(8))), ROWS[own])
            np.testing.assert_array_equal(part.documents, DOCUMENTS[own])
            np.testing.assert_array_equal(part.take(np.arange(part.num_samples)[::-1]), ROWS[own][::-1])
        assert sum(part.num_samples for part in parts) == 60


def test_a_part_can_be_split_again_and_a_seed_draws_the_same_parts(tmp_path):
    whole = open_activations(write(tmp_path / "x", "npz"))
    train, _ = whole.split(0.3, 1)
    first, second = train.split(0.3, 2)
    again = open_activations(tmp_path / "x.npz").split(0.3, 1)[0].split(0.3, 2)[1]
    np.testing.assert_array_equal(again.documents, second.documents)
    assert set(first.documents) | set(second.documents) == set(train.documents)
    assert len({tuple(np.unique(whole.split(0.3, seed)[1].documents)) for seed in range(9)}) > 1


def test_rows_of_unknown_documents_are_held_out_in_blocks(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20_000, dtype=np.float32).reshape(-1, 2))
    train, held = open_activations(tmp_path / "x.npy").split(0.1)
    assert train.documents is None and held.num_samples == 1_000
    rows = held.take(np.arange(1_000))[:, 0].astype(int) // 2
    # Ten hundredths, each of a piece: nine tokens in ten have both neighbours on their own side, and far more do.
    assert np.count_nonzero(np.diff(rows) != 1) < 10
    assert len(np.unique(rows // 100)) == 10


@pytest.mark.parametrize("sizes", [[1, 99], [99, 1], [50, 50], [1] * 100])
@pytest.mark.parametrize("share", [1e-6, 0.02, 0.5, 0.999])
def test_neither_part_is_ever_empty(tmp_path, sizes, share):
    np.savez(tmp_path / "x.npz", activations=np.ones((100, 2)), documents=np.repeat(np.arange(len(sizes)), sizes))
    train, held = open_activations(tmp_path / "x.npz").split(share)
    assert train.num_samples >= 1 and held.num_samples >= 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, ">f4"])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "safetensors"])
def test_other_types_are_widened(tmp_path, kind, dtype):
    rows = ROWS.astype(dtype)
    if kind == "safetensors" and dtype == ">f4":
        rows = ROWS
    found = open_activations(write(tmp_path / "x", kind, rows)).take(np.arange(60))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.astype(np.float32))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_documents_of_tokens_become_rows(tmp_path, save):
    save(tmp_path / "x.npz", layer=ROWS.reshape(6, 10, 5))
    found = open_activations(tmp_path / "x.npz", key="layer")
    np.testing.assert_array_equal(found.documents, np.repeat(np.arange(6), 10))
    np.testing.assert_array_equal(found.take([9, 10, 59]), ROWS[[9, 10, 59]])
    np.testing.assert_array_equal(np.concatenate(list(found.chunks(7))), ROWS)
    save(tmp_path / "y.npz", layer=ROWS.reshape(6, 10, 5), documents=[5, 5, 1, 2, 3, 4])
    found = open_activations(tmp_path / "y.npz", key="layer")
    np.testing.assert_array_equal(found.documents, np.repeat([5, 5, 1, 2, 3, 4], 10))


def test_documents_of_unequal_lengths_in_a_column(tmp_path):
    ends = [0, 8, 20, 21, 60]
    nested = pa.array([list(ROWS[a:b]) for a, b in itertools.pairwise(ends)], pa.list_(pa.list_(pa.float32())))
    pa.parquet.write_table(pa.table({"resid": nested}), tmp_path / "x.parquet", row_group_size=3)
    found = open_activations(tmp_path / "x.parquet")
    np.testing.assert_array_equal(found.documents, np.repeat(np.arange(4), np.diff(ends)))
    np.testing.assert_array_equal(np.concatenate(list(found.chunks(9))), ROWS)


def test_a_folder_is_its_files_in_order(tmp_path):
    for name, rows in (("b", ROWS[25:]), ("a", ROWS[:25])):
        np.save(tmp_path / f"{name}.npy", rows)
    (tmp_path / "README.md").write_text("not activations")
    found = open_activations(tmp_path)
    assert found.documents is None and [path.name for path in found.files] == ["a.npy", "b.npy"]
    np.testing.assert_array_equal(np.concatenate(list(found.chunks(11))), ROWS)
    np.testing.assert_array_equal(found.take([24, 25, 59, 0]), ROWS[[24, 25, 59, 0]])


def test_documents_of_a_folder_are_told_apart(tmp_path):
    np.save(tmp_path / "a.npy", ROWS[:30].reshape(3, 10, 5))
    np.save(tmp_path / "b.npy", ROWS[30:].reshape(6, 5, 5))
    np.testing.assert_array_equal(open_activations(tmp_path).documents, np.repeat(np.arange(9), [10] * 3 + [5] * 6))


def test_what_is_held_is_a_chunk_and_not_the_file(tmp_path):
    rows = np.zeros((200_000, 100), np.float32)
    for kind in ("npz", "compressed"):
        path = write(tmp_path / kind, kind, rows, np.zeros(len(rows), np.int32))
        tracemalloc.start()
        found = open_activations(path)
        total = sum(len(chunk) for chunk in found.chunks(500))
        found.take([3, 199_000])
        found.mean()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total == 200_000 and peak < rows.nbytes / 2


def refusal(path, **options):
    with pytest.raises(ValueError) as error:
        found = open_activations(path, **options)
        list(found.chunks(16))
    assert error.value.__cause__ is None
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence.replace(str(path), "")) < 400
    return sentence


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path, kind, value):
    rows = ROWS.copy()
    rows[43, 2] = value
    path = write(tmp_path / "x", kind, rows)
    assert f"row 43 of {path} has a NaN" in refusal(path)
    for wanted in ([1, 43], [40, 43]):
        with pytest.raises(ValueError, match="row 43 of"):
            open_activations(path).take(wanted)
    open_activations(path).take([1, 42, 44])


def test_a_number_beyond_float32_is_not_finite(tmp_path):
    np.save(tmp_path / "x.npy", np.full((3, 2), 1e300))
    assert "row 0 of" in refusal(tmp_path / "x.npy")


class Booby:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def header(shape, descr="<f4", fortran=False):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return out.getvalue()


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def safetensors_of(path, entry, data=bytes(8)):
    text = entry if isinstance(entry, bytes) else json.dumps({"a": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def cut(path, make):
    make(path)
    path.write_bytes(path.read_bytes()[:-40])


def encrypted(path):
    zipped(path, {"activations.npy": header((2, 2)) + bytes(16)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def spoiled(path):
    """A byte of what is compressed."""
    np.savez_compressed(path, activations=np.random.default_rng(0).normal(size=(9_000, 5)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def table(**parts):
    return pa.table({name: pa.array(values) for name, values in parts.items()})


HUGE = 10**13
BAD = {
    "missing": ("x.npy", lambda path: None, "neither a file nor a folder"),
    "empty": ("x.npz", lambda path: path.write_bytes(b""), "is empty"),
    "kind": ("x.csv", lambda path: path.write_text("1,2"), "no ending that tells its kind"),
    "text": ("x.npy", lambda path: path.write_text("some text that is no array"), "cannot be read"),
    "no zip": ("x.npz", lambda path: path.write_text("some text that is no archive"), "cannot be read"),
    "a pickle": ("x.npy", lambda path: path.write_bytes(pickle.dumps([1])), "cannot be read"),
    "cut npy": ("x.npy", lambda path: cut(path, lambda path: np.save(path, ROWS)), "its header promises 1200 bytes"),
    "cut npz": ("x.npz", lambda path: cut(path, lambda path: np.savez(path, ROWS)), "cannot be read"),
    "cut safetensors": ("x.safetensors", lambda path: cut(path, lambda path: save_file({"a": ROWS}, path)), "cannot be read"),
    "cut arrow": ("x.arrow", lambda path: cut(path, lambda path: arrow(path, columns(ROWS, DOCUMENTS))), "cannot be read"),
    "cut parquet": (
        "x.parquet",
        lambda path: cut(path, lambda path: pa.parquet.write_table(columns(ROWS, DOCUMENTS), path)),
        "cannot be read",
    ),
    "too long": (
        "x.npy",
        lambda path: path.write_bytes(header((2, 2)) + bytes(17)),
        "but there are 17",
    ),
    "absurd": ("x.npy", lambda path: path.write_bytes(header((HUGE, HUGE)) + bytes(16)), "its header promises 4"),
    "negative": ("x.npy", lambda path: path.write_bytes(header((-2, -2)) + bytes(16)), "cannot be read"),
    "long header": ("x.npy", lambda path: path.write_bytes(header((2,) * 6_000) + bytes(16)), "cannot be read"),
    "bomb": ("x.npz", lambda path: zipped(path, {"a.npy": header((HUGE, 4)) + bytes(10**6)}), "its header promises 16"),
    "many documents": (
        "x.npz",
        lambda path: zipped(
            path, {"a.npy": header((2, 2)) + bytes(16), "documents.npy": header((10**6,), "<i4") + bytes(4 * 10**6)}
        ),
        "must be 2 integers, one a row",
    ),
    "wide": ("x.npy", lambda path: np.save(path, np.zeros((1, 2**20 + 1), np.float16)), "more than 1048576"),
    "encrypted": ("x.npz", encrypted, "encrypted"),
    "spoiled": ("x.npz", spoiled, "cannot be read at rows"),
    "columns compressed": ("x.npz", lambda path: np.savez_compressed(path, np.asfortranarray(ROWS)), "no row can be read"),
    "vector": ("x.npy", lambda path: np.save(path, ROWS[0]), "its shape is (5,)"),
    "scalar": ("x.npy", lambda path: np.save(path, np.float32(1)), "its shape is ()"),
    "four axes": ("x.npy", lambda path: np.save(path, ROWS.reshape(3, 4, 5, 5)), "its shape is (3, 4, 5, 5)"),
    "no rows": ("x.npy", lambda path: np.save(path, ROWS[:0]), "its shape is (0, 5)"),
    "no columns": ("x.npz", lambda path: np.savez(path, ROWS[:, :0]), "its shape is (60, 0)"),
    "integers": ("x.npy", lambda path: np.save(path, np.ones((3, 2), int)), "floating-point numbers, but they are int64"),
    "complex": ("x.npz", lambda path: np.savez(path, ROWS + 1j), "floating-point numbers, but they are complex"),
    "whole tensors": ("x.safetensors", lambda path: save_file({"a": np.ones((3, 2), np.int8)}, path), "has the type I8"),
    "tensor out of file": (
        "x.safetensors",
        lambda path: safetensors_of(path, {"dtype": "F32", "shape": [HUGE, 4], "data_offsets": [0, 16 * HUGE]}),
        "cannot be read",
    ),
    "deep header": ("x.safetensors", lambda path: safetensors_of(path, b"[" * 10**5), "cannot be read"),
    "long header of tensors": ("x.safetensors", lambda path: path.write_bytes(b"\xff" * 64), "cannot be read"),
    "several": ("x.npz", lambda path: np.savez(path, a=ROWS, b=ROWS), "several arrays, 'a', 'b'; name one with key"),
    "none": ("x.npz", lambda path: np.savez(path, documents=DOCUMENTS), "holds no activations"),
    "few documents": ("x.npz", lambda path: np.savez(path, a=ROWS, documents=DOCUMENTS[1:]), "must be 60 integers, one a row"),
    "documents of floats": ("x.npz", lambda path: np.savez(path, a=ROWS, documents=DOCUMENTS / 2), "must be 60 integers"),
    "ragged": ("x.parquet", lambda path: pa.parquet.write_table(table(a=[[1.0, 2.0], [3.0]]), path), "lists of [1, 2] numbers"),
    "missing numbers": ("x.arrow", lambda path: arrow(path, table(a=[[1.0, None]])), "missing values"),
    "missing lists": ("x.arrow", lambda path: arrow(path, table(a=[[1.0], None])), "missing values"),
    "no lists": ("x.arrow", lambda path: arrow(path, table(a=[1.0])), "holds no activations"),
    "lists of lists of lists": ("x.arrow", lambda path: arrow(path, table(a=[[[[1.0]]]])), "must hold lists of numbers"),
    "no rows in it": ("x.parquet", lambda path: pa.parquet.write_table(columns(ROWS, DOCUMENTS)[:0], path), "must hold lists"),
    "token numbers": ("x.parquet", lambda path: pa.parquet.write_table(table(a=[[1, 2]]), path), "floating-point numbers"),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, case):
    name, make, message = BAD[case]
    make(tmp_path / name)
    sentence = refusal(tmp_path / name)
    assert message in sentence and str(tmp_path / name) in sentence


def test_pickled_objects_are_never_loaded(tmp_path):
    trap = np.empty((2, 2), object)
    trap[:] = Booby(tmp_path / "trace")
    np.save(tmp_path / "x.npy", trap)
    np.savez(tmp_path / "x.npz", activations=ROWS, documents=trap)
    np.savez_compressed(tmp_path / "y.npz", trap)
    for name, message in (("x.npy", "pickled objects"), ("y.npz", "pickled objects"), ("x.npz", "must be 60 integers")):
        assert message in refusal(tmp_path / name)
    assert not (tmp_path / "trace").exists()


def test_a_key_names_the_array(tmp_path):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS[:7])
    assert open_activations(tmp_path / "x.npz", key="b").num_samples == 7
    assert "has no array 'c'; choose one of 'a', 'b'." in refusal(tmp_path / "x.npz", key="c")
    np.save(tmp_path / "x.npy", ROWS)
    assert "leave out the key 'a'" in refusal(tmp_path / "x.npy", key="a")


def doubled(folder, first, second):
    for name, make in (("a", first), ("b", second)):
        make(folder / name)


FOLDERS = {
    "nothing": (lambda folder: None, "holds no file of activations; give one with .npy"),
    "folders": (lambda folder: (folder / "train").mkdir(), "give one of its folders, such as 'train'"),
    "widths": (
        lambda f: doubled(f, lambda p: np.save(p, ROWS), lambda p: np.save(p, ROWS[:, 1:])),
        "must hold one width, but it is 5",
    ),
    "types": (
        lambda f: doubled(f, lambda p: np.save(p, ROWS), lambda p: np.save(p, ROWS.astype(np.float16))),
        "must hold one type, but it is float32 in a.npy and float16 in b.npy",
    ),
    "kinds": (lambda f: doubled(f, lambda p: np.save(p, ROWS), lambda p: np.savez(p, ROWS)), "must hold files of one kind"),
    "documents": (
        lambda f: doubled(f, lambda p: np.savez(p, a=ROWS), lambda p: np.savez(p, a=ROWS, documents=DOCUMENTS)),
        "documents in all files or in none",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_bad_folder_is_refused(tmp_path, case):
    make, message = FOLDERS[case]
    make(tmp_path)
    assert message in refusal(tmp_path)


def test_what_the_system_refuses_is_said(tmp_path, monkeypatch):
    assert "neither a file nor a folder" in refusal(tmp_path / ("x" * 5_000))

    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "iterdir", denied)
    assert "cannot be read ([Errno 13] Permission denied)" in refusal(tmp_path)


def test_arrow_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "x", "parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install 'sae_gap[arrow]'" in refusal(path)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda found: found.take([60]), "from 0 to 59, but they go from 60 to 60"),
        (lambda found: found.take([-1, 2]), "but they go from -1 to 2"),
        (lambda found: found.take([0.5]), "must be a vector of integers"),
        (lambda found: found.take([[1]]), "must be a vector of integers"),
        (lambda found: list(found.chunks(0)), "size must be a positive integer"),
        *(
            (lambda found, share=share: found.split(share), "held_out must be a finite number above 0 and below 1")
            for share in (0, 1, True, np.nan, "a")
        ),
        (lambda found: found.split(0.1, -1), "seed must be"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, ask, message):
    with pytest.raises(ValueError) as error:
        ask(open_activations(write(tmp_path / "x", "npz")))
    assert message in str(error.value)


def test_one_document_cannot_be_split(tmp_path):
    with pytest.raises(ValueError, match="holds one document alone"):
        open_activations(write(tmp_path / "x", "npz", documents=np.zeros(60, int))).split()


def test_what_is_saved_is_read_and_a_write_that_fails_leaves_nothing(tmp_path):
    save_activations(tmp_path / "new" / "x.npz", ROWS, DOCUMENTS, names=np.array(["a"]))
    found = open_activations(tmp_path / "new" / "x.npz")
    np.testing.assert_array_equal(found.take(np.arange(60)), ROWS)
    np.testing.assert_array_equal(found.documents, DOCUMENTS)
    with pytest.raises(ValueError):
        save_activations(tmp_path / "new" / "x.npz", np.array([object()]))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.npz"]
    assert open_activations(tmp_path / "new" / "x.npz").num_samples == 60


def test_a_mean_is_summed_in_double(tmp_path):
    np.save(tmp_path / "x.npy", np.full((9_000, 1), 0.1, np.float32))
    np.testing.assert_allclose(open_activations(tmp_path / "x.npy").mean(), np.float32(0.1), rtol=1e-7)


def test_documents_of_equal_size_are_read_by_the_row():
    rows = ROWS.reshape(12, 5, 5)
    table = as_table(pathlib.Path("x.npy"), Array(rows.shape, rows.dtype, lambda start, stop: rows[start:stop]), None)
    for start, stop in ((0, 60), (2, 7), (5, 10), (58, 59)):
        np.testing.assert_array_equal(table.read(start, stop), ROWS[start:stop])
