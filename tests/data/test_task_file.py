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


def leaves(task):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(task)]


def write(path, arrays, save=np.savez):
    save(path, **arrays)
    return path


def test_a_file_gives_back_what_was_saved(tmp_path, task, arrays):
    for save in (np.savez, np.savez_compressed):
        found = load(write(tmp_path / "task.npz", arrays | {"unrelated": np.array(["text"])}, save))
        assert jax.tree.structure(found) == jax.tree.structure(task)
        assert all(np.array_equal(a, b) for a, b in zip(leaves(found), leaves(task), strict=True))
        assert found.width == 20 and found.seed == 0


def test_a_path_may_begin_at_home_and_the_seed_is_the_callers(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "task.npz", arrays)
    assert (
        load("~/task.npz", seed=7).seed == 7
        and Recording("~/task.npz").path == tmp_path / "task.npz"
    )


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
    for name, leaf in {
        "Y_val": found.id.signals,
        "Z_ood": found.ood.codes,
        "A": found.dictionary,
    }.items():
        np.testing.assert_array_equal(leaf, rounded[name].astype(np.float32))


def test_layout_in_memory_does_not_matter(tmp_path, task, arrays):
    found = load(
        write(
            tmp_path / "task.npz",
            {name: np.asfortranarray(array) for name, array in arrays.items()},
        )
    )
    assert all(np.array_equal(a, b) for a, b in zip(leaves(found), leaves(task), strict=True))


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
    found = load(write(tmp_path / "task.npz", part))
    assert found.width == 20
    known = {
        "A": found.dictionary,
        "Z_train": found.train.codes,
        "Z_val": found.id.codes,
        "Z_ood": found.ood.codes,
    }
    assert {name for name, array in known.items() if array is not None} == set(kept)


def test_the_caller_may_ask_for_another_width(tmp_path, arrays):
    found = load(write(tmp_path / "task.npz", arrays), width=64)
    assert found.width == 64 and found.dictionary.shape == (12, 20)


def test_splits_may_have_different_sizes(tmp_path, arrays):
    found = load(
        write(
            tmp_path / "task.npz",
            arrays | {"Y_val": arrays["Y_val"][:7], "Z_val": arrays["Z_val"][:7]},
        )
    )
    assert len(found.id.signals) == len(found.id.codes) == 7 and len(found.train.signals) == 100


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


BAD_ARRAYS = {
    "no Y_train": (lambda a: without(a, "Y_train"), "has no tensor Y_train"),
    "no Y_ood": (lambda a: without(a, "Y_ood"), "has no tensor Y_ood"),
    "no width": (lambda a: without(a, "Z", "A"), "how many atoms to learn is unknown; give width."),
    "a vector": (
        lambda a: a | {"Y_val": a["Y_val"][0]},
        "must be a non-empty matrix, but its shape is (12,);",
    ),
    "no rows": (
        lambda a: a | {"Y_ood": a["Y_ood"][:0]},
        "must be a non-empty matrix, but its shape is (0, 12);",
    ),
    "NaN": (lambda a: a | {"Y_train": with_one(a["Y_train"], np.nan)}, "Y_train in "),
    "too large": (lambda a: a | {"A": with_one(a["A"], 1e300)}, "has NaN or infinite entries; "),
    "complex": (lambda a: a | {"Y_ood": a["Y_ood"] * 1j}, "has the type complex64; "),
    "records": (lambda a: a | {"A": np.zeros((12, 20), "f4,i4")}, "has the type [("),
    "Y_ood is narrow": (lambda a: a | {"Y_ood": a["Y_ood"][:, :-1]}, "(100, 12) is expected"),
    "A is transposed": (lambda a: a | {"A": a["A"].T}, "has shape (20, 12)"),
    "Z_ood is narrow": (lambda a: a | {"Z_ood": a["Z_ood"][:, :-1]}, "(100, 20) is expected"),
    "Z_val is short": (lambda a: a | {"Z_val": a["Z_val"][:-1]}, "has shape (99, 20)"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_arrays_are_refused(tmp_path, arrays, case):
    spoil, message = BAD_ARRAYS[case]
    sentence = refusal(write(tmp_path / "task.npz", spoil(arrays)))
    assert message in sentence and str(tmp_path / "task.npz") in sentence


def named(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def no_arrays(path):
    named(path, {f"Y_{name}.npy": b"not an array" for name in ("train", "val", "ood")})


BAD_FILES = {
    "missing": (lambda path: None, "is not a file"),
    "directory": (lambda path: path.mkdir(), "is not a file"),
    "pipe": (os.mkfifo, "is not a file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as arrays"),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"Y_train": 1})),
        "cannot be read as arrays",
    ),
    "no arrays in it": (no_arrays, "Y_train in "),
    "torn header": (
        lambda path: named(path, {"Y_train.npy": b"\x93NUMPY\x01\x00\x09\x00{'descr':"}),
        "cannot be read as arrays",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_archive_of_arrays_is_refused(tmp_path, case):
    make, message = BAD_FILES[case]
    make(tmp_path / "task.npz")
    assert message in refusal(tmp_path / "task.npz", width=20)


class Booby:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["Y_train", "A"])
def test_pickled_objects_are_refused_and_never_loaded(tmp_path, arrays, name):
    trace = tmp_path / "trace"
    trap = np.empty((1, 1), object)
    trap[0, 0] = Booby(trace)
    path = write(tmp_path / "task.npz", arrays | {name: trap})
    assert "allow_pickle=False" in refusal(path)
    assert not trace.exists()
    # The trap does work.
    with np.load(path, allow_pickle=True) as archive:
        archive[name]
    assert trace.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"width": value}, "width must be an integer of at least 1")
            for value in (0, -1, 2.5, True)
        ),
        *(
            ({"seed": value}, "seed must be an integer of at least 0 and of at most 4294967295")
            for value in (-1, 2**32, 1.5)
        ),
    ],
)
def test_bad_options_are_refused(tmp_path, arrays, options, message):
    assert message in refusal(write(tmp_path / "task.npz", arrays), **options)
