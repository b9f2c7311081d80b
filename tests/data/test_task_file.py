"""A file is read whole or refused in one sentence."""

import os
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Recording, load
from tests.data.activations.test_opening import Booby


def leaves(task):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(task)]


def write(path, arrays, save=np.savez):
    save(path, **arrays)
    return path


def test_a_file_gives_back_what_was_saved(tmp_path, task, arrays):
    by_columns = {name: np.asfortranarray(array) for name, array in arrays.items()}
    for save, given in ((np.savez, arrays), (np.savez_compressed, arrays), (np.savez, by_columns)):
        found = load(write(tmp_path / "task.npz", given | {"unrelated": np.array(["text"])}, save))
        assert jax.tree.structure(found) == jax.tree.structure(task)
        assert all(np.array_equal(a, b) for a, b in zip(leaves(found), leaves(task), strict=True))
        assert found.width == 20 and found.seed == 0


def test_a_path_may_begin_at_home_and_the_seed_is_the_callers(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "task.npz", arrays)
    assert load("~/task.npz", seed=7).seed == 7
    assert Recording("~/task.npz").path == tmp_path / "task.npz"


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int64, np.float16, np.float64, np.longdouble, ">f4", ">i2"]
)
def test_real_numbers_are_cast(tmp_path, arrays, dtype):
    rounded = {
        name: np.asarray(array * 3).round().clip(0, 3).astype(dtype)
        for name, array in arrays.items()
    }
    found = load(write(tmp_path / "task.npz", rounded))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    leaves = {"Y_val": found.id.signals, "Z_ood": found.ood.codes, "A": found.dictionary}
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, rounded[name].astype(np.float32))


def without(arrays, *prefixes):
    return {name: array for name, array in arrays.items() if not name.startswith(prefixes)}


def test_signals_alone(tmp_path, arrays):
    found = load(write(tmp_path / "task.npz", without(arrays, "Z", "A")), width=33)
    assert found.width == 33 and found.dictionary is None
    for split in (found.train, found.id, found.ood):
        assert split.codes is None and split.labels is None
    np.testing.assert_array_equal(found.ood.signals, arrays["Y_ood"])


@pytest.mark.parametrize("kept", [("A",), ("Z_train",), ("Z_val", "Z_ood")])
def test_any_part_of_the_truth_tells_the_width(tmp_path, arrays, kept):
    part = {name: array for name, array in arrays.items() if name.startswith("Y") or name in kept}
    few = {name: arrays[name][:7] for name in ("Y_val", "Z_val") if name in part}
    path = write(tmp_path / "task.npz", part | few)
    found = load(path)
    assert found.width == 20 and load(path, width=64).width == 64
    # Splits may have different sizes.
    assert (len(found.id.signals), len(found.train.signals)) == (7, 100)
    codes = {"Z_train": found.train.codes, "Z_val": found.id.codes, "Z_ood": found.ood.codes}
    known = codes | {"A": found.dictionary}
    assert {name for name, array in known.items() if array is not None} == set(kept)


def refusal(path, **options):
    """The sentence with which a file is refused. It names the file, but only the file's own part of
    it is compared.
    """
    with pytest.raises(ValueError) as error:
        load(path, **options)
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def with_one(array, value):
    array = np.array(array, np.float64)
    array[3, 2] = value
    return array


BAD_ARRAYS = [
    (lambda a: without(a, "Y_train"), "has no tensor Y_train"),
    (lambda a: without(a, "Y_ood"), "has no tensor Y_ood"),
    (lambda a: without(a, "Z", "A"), "give width"),
    (lambda a: a | {"Y_val": a["Y_val"][0]}, "its shape is (12,);"),
    (lambda a: a | {"Y_ood": a["Y_ood"][:0]}, "its shape is (0, 12);"),
    (lambda a: a | {"Y_train": with_one(a["Y_train"], np.nan)}, "Y_train in "),
    (lambda a: a | {"A": with_one(a["A"], 1e300)}, "has NaN or infinite entries; "),
    (lambda a: a | {"Y_ood": a["Y_ood"] * 1j}, "has the type complex64; "),
    (lambda a: a | {"A": np.zeros((12, 20), "f4,i4")}, "has the type [("),
    (lambda a: a | {"Y_ood": a["Y_ood"][:, :-1]}, "(100, 12) is expected"),
    (lambda a: a | {"A": a["A"].T}, "has shape (20, 12)"),
    (lambda a: a | {"Z_ood": a["Z_ood"][:, :-1]}, "(100, 20) is expected"),
    (lambda a: a | {"Z_val": a["Z_val"][:-1]}, "has shape (99, 20)"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_ARRAYS)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_arrays_are_refused(tmp_path, arrays, spoil, words):
    sentence = refusal(write(tmp_path / "task.npz", spoil(arrays)))
    assert words in sentence and str(tmp_path / "task.npz") in sentence


def named(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


NO_ARRAYS = {f"Y_{name}.npy": b"not an array" for name in ("train", "val", "ood")}
TORN = {"Y_train.npy": b"\x93NUMPY\x01\x00\x09\x00{'descr':"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((make, "is not a file") for make in (lambda path: None, pathlib.Path.mkdir, os.mkfifo)),
        (lambda path: path.write_bytes(b""), "cannot be read as arrays"),
        (lambda path: path.write_bytes(pickle.dumps(NO_ARRAYS)), "cannot be read as arrays"),
        (lambda path: named(path, NO_ARRAYS), "Y_train in "),
        (lambda path: named(path, TORN), "cannot be read as arrays"),
    ],
)
def test_what_is_no_archive_of_arrays_is_refused(tmp_path, make, words):
    make(tmp_path / "task.npz")
    assert words in refusal(tmp_path / "task.npz", width=20)


@pytest.mark.parametrize("name", ["Y_train", "A"])
def test_pickled_objects_are_refused_and_never_loaded(tmp_path, arrays, name):
    trace = tmp_path / "trace"
    trap = np.empty((1, 1), object)
    trap[0, 0] = Booby(trace)
    path = write(tmp_path / "task.npz", arrays | {name: trap})
    assert "allow_pickle=False" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("width", value) for value in (0, 2.5, True)), *(("seed", value) for value in (-1, 2**32))],
)
def test_bad_options_are_refused(tmp_path, arrays, name, value):
    path = write(tmp_path / "task.npz", arrays)
    assert f"{name} must be an integer" in refusal(path, **{name: value})
