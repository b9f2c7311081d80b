"""A file is read whole or refused in one sentence."""

import re

import jax
import numpy as np
import pytest

from sae_gap import Recording, load
from tests.data.activations.test_opening import TRAP, refused


def write(folder, arrays, save=np.savez):
    save(folder / "task.npz", **arrays)
    return folder / "task.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["f4", np.int8, np.float16, np.longdouble, ">f4"])
def test_a_file_gives_back_what_was_saved(tmp_path, task, arrays, save, dtype, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {name: (3 * array).astype(dtype) for name, array in arrays.items()}
    given["Y_ood"] = np.asfortranarray(given["Y_ood"])
    path = write(tmp_path, given | {"unrelated": np.array(["text"])}, save)
    found, again = load("~/task.npz"), Recording("~/task.npz", seed=7)
    assert jax.tree.structure(found) == jax.tree.structure(task)
    wanted = [given[name].astype("f4") for name in ("Y_val", "Z_ood", "A")]
    parts = [found.id.signals, found.ood.codes, found.dictionary]
    jax.tree.map(lambda *pair: np.testing.assert_array_equal(*pair, strict=True), parts, wanted)
    assert (again.path, again.task().seed) == (path, 7)


@pytest.mark.parametrize("kept", [(), ("A",), ("Z_train",), ("Z_val", "Z_ood")])
def test_any_part_of_the_truth_tells_the_width(tmp_path, arrays, kept):
    part = {name: array for name, array in arrays.items() if name.startswith("Y") or name in kept}
    # Splits may have different sizes.
    path = write(tmp_path, part | {name: arrays[name][:7] for name in part if "_val" in name})
    found = load(path, width=None if kept else 20)
    assert (found.width, load(path, width=64).width, len(found.id.signals)) == (20, 64, 7)
    known = found.dictionary, found.train.codes, found.id.codes, found.ood.codes
    names = "A", "Z_train", "Z_val", "Z_ood"
    assert [array is not None for array in known] == [name in kept for name in names]


# What arrays of some names become; None for those that are missing.
BAD = [
    ("Y_train", lambda array: None, "has no tensor Y_train"),
    ("A|Z.*", lambda array: None, "give width"),
    ("Y_ood", lambda array: array[:0], "its shape is (0, 12);"),
    ("A", lambda array: array.astype(float) * 1e300, "has NaN or infinite entries; "),
    ("Y_ood", lambda array: array * 1j, "has the type complex64; "),
    ("Y_ood", lambda array: array[:, :-1], "(100, 12) is expected"),
    ("A", lambda array: array.T, "has shape (20, 12)"),
    ("Z_ood", lambda array: array[:, :-1], "(100, 20) is expected"),
    ("Z_val", lambda array: array[:-1], "has shape (99, 20)"),
    ("A", lambda array: TRAP, "allow_pickle=False"),
]


@pytest.mark.parametrize(("place", "spoil", "words"), BAD)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_arrays_are_refused(tmp_path, arrays, place, spoil, words):
    for name in [name for name in arrays if re.fullmatch(place, name)]:
        arrays = arrays | {name: spoil(arrays[name])}
    path = write(tmp_path, {name: array for name, array in arrays.items() if array is not None})
    refused(lambda: load(path), words)


def test_what_is_no_archive_of_arrays_and_bad_options_are_refused(tmp_path, arrays):
    path = tmp_path / "task.npz"
    refused(lambda: load(path), "is not a file")
    path.write_bytes(b"text")
    refused(lambda: load(path), "cannot be read as ")
    write(tmp_path, arrays)
    refused(lambda: load(path, width=True), "width must be an integer")
    refused(lambda: load(path, seed=-1), "seed must be an integer")
