"""A file is read whole or refused in one sentence."""

import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Recording, load
from tests.data.activations.test_opening import Booby


def write(folder, arrays, save=np.savez):
    save(folder / "task.npz", **arrays)
    return folder / "task.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_a_file_gives_back_what_was_saved(tmp_path, task, arrays, save, order):
    given = {name: order(array) for name, array in arrays.items()}
    found = load(write(tmp_path, given | {"unrelated": np.array(["text"])}, save))
    assert jax.tree.structure(found) == jax.tree.structure(task)
    jax.tree.map(np.testing.assert_array_equal, found, task)
    assert found.width == 20 and found.seed == 0


def test_a_path_may_begin_at_home_and_the_seed_is_the_callers(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, arrays)
    assert load("~/task.npz", seed=7).seed == 7 and Recording("~/task.npz").path == path


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float16, np.longdouble, ">f4", ">i2"])
def test_real_numbers_are_cast(tmp_path, arrays, dtype):
    rounded = {name: (array * 3).round().astype(dtype) for name, array in arrays.items()}
    found = load(write(tmp_path, rounded))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    leaves = {"Y_val": found.id.signals, "Z_ood": found.ood.codes, "A": found.dictionary}
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, rounded[name].astype(np.float32))


@pytest.mark.parametrize("kept", [(), ("A",), ("Z_train",), ("Z_val", "Z_ood")])
def test_any_part_of_the_truth_tells_the_width(tmp_path, arrays, kept):
    part = {name: array for name, array in arrays.items() if name.startswith("Y") or name in kept}
    # Splits may have different sizes.
    path = write(tmp_path, part | {name: arrays[name][:7] for name in part if "_val" in name})
    found = load(path, width=None if kept else 20)
    assert found.width == 20 and load(path, width=64).width == 64
    assert (len(found.id.signals), len(found.train.signals)) == (7, 100)
    codes = {"Z_train": found.train.codes, "Z_val": found.id.codes, "Z_ood": found.ood.codes}
    known = codes | {"A": found.dictionary}
    assert {name for name, array in known.items() if array is not None} == {*kept}


def with_one(name, value):
    def spoil(arrays):
        array = arrays[name].astype(float)
        array[3, 2] = value
        return {name: array}

    return spoil


# Arrays in the place of right ones, None for one that is missing.
BAD_ARRAYS = [
    (lambda a: {"Y_train": None}, "has no tensor Y_train"),
    (lambda a: dict.fromkeys(("A", "Z_train", "Z_val", "Z_ood")), "give width"),
    (lambda a: {"Y_val": a["Y_val"][0]}, "its shape is (12,);"),
    (lambda a: {"Y_ood": a["Y_ood"][:0]}, "its shape is (0, 12);"),
    (with_one("Y_train", np.nan), "Y_train in "),
    (with_one("A", 1e300), "has NaN or infinite entries; "),
    (lambda a: {"Y_ood": a["Y_ood"] * 1j}, "has the type complex64; "),
    (lambda a: {"Y_ood": a["Y_ood"][:, :-1]}, "(100, 12) is expected"),
    (lambda a: {"A": a["A"].T}, "has shape (20, 12)"),
    (lambda a: {"Z_ood": a["Z_ood"][:, :-1]}, "(100, 20) is expected"),
    (lambda a: {"Z_val": a["Z_val"][:-1]}, "has shape (99, 20)"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_ARRAYS)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_arrays_are_refused(tmp_path, arrays, spoil, words):
    spoilt = arrays | spoil(arrays)
    refused(write(tmp_path, {n: a for n, a in spoilt.items() if a is not None}), words)


def refused(path, words, **options):
    with pytest.raises(ValueError) as error:
        load(path, **options)
    sentence = str(error.value)
    assert words in sentence and "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((make, "is not a file") for make in (lambda path: None, pathlib.Path.mkdir, os.mkfifo)),
        (lambda path: path.write_bytes(b""), "cannot be read as arrays"),
        (lambda path: path.write_bytes(pickle.dumps({})), "cannot be read as arrays"),
    ],
)
def test_what_is_no_archive_of_arrays_is_refused(tmp_path, make, words):
    make(tmp_path / "task.npz")
    refused(tmp_path / "task.npz", words, width=20)


def test_pickled_objects_are_never_loaded_and_bad_options_are_refused(tmp_path, arrays):
    for name, value in (("width", 0), ("width", True), ("seed", -1)):
        refused(write(tmp_path, arrays), f"{name} must be an integer", **{name: value})
    trap = np.array([[Booby(tmp_path / "trace")]])
    refused(write(tmp_path, arrays | {"A": trap}), "allow_pickle=False")
    assert not (tmp_path / "trace").exists()
