"""Reads a task from the .npz file of a user."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sae_gap.core.checks import check_path, check_seed, check_size
from sae_gap.core.types import Split, Task
from sae_gap.data.activations import fetched
from sae_gap.storage.tensor_files import reading

_NAMES = ("Y_train", "Y_val", "Y_ood", "Z_train", "Z_val", "Z_ood", "A")


def load(path: str | pathlib.Path, *, width: int | None = None, seed: int = 0) -> Task:
    """Reads a task from an .npz file of activations.

    The file holds `Y_train`, `Y_val` and `Y_ood` (samples as rows) and optionally the truth: `Z_train`, `Z_val`, `Z_ood`
    (codes, samples as rows) and `A` (the dictionary, input_dim x num_latents). Pickled arrays are refused, never loaded.

    Args:
      path: the file, or its URL in a bucket.
      width: atoms of the dictionaries to learn; None takes as many as the truth has.
      seed: seeds the learners.

    Returns:
      The task, in the default float type. What the file does not say of the truth is None.

    Raises:
      ValueError: the file cannot be read as such a task, or an argument is out of range; the message names the fault and the
        mend.
    """
    check_path("path", path)
    if width is not None:
        check_size("width", width)
    check_seed(seed)
    arrays = _read_arrays(fetched(path))
    for name in ("Y_train", "Y_val", "Y_ood"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name}; save Y_train, Y_val and Y_ood with numpy.savez.")
    arrays = {name: _check_array(path, name, array) for name, array in arrays.items()}
    _check_shapes(path, arrays)

    true_width = next((arrays[name].shape[1] for name in ("A", "Z_train", "Z_val", "Z_ood") if name in arrays), None)
    width = true_width if width is None else int(width)
    if width is None:
        raise ValueError(f"{path} holds neither codes nor a dictionary, so how many atoms to learn is unknown; give width.")

    def split(name: str) -> Split:
        codes = arrays.get(f"Z_{name}")
        signals = arrays[f"Y_{name}"]
        return Split(jnp.asarray(signals), None if codes is None else jnp.asarray(codes))

    dictionary = jnp.asarray(arrays["A"]) if "A" in arrays else None
    return Task(split("train"), split("val"), split("ood"), dictionary, width=width, seed=seed)


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with reading(path, "arrays in an .npz file"), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in _NAMES if name in archive}


def _check_array(path, name: str, array: Any) -> np.ndarray:
    if np.ndim(array) != 2 or not np.size(array):
        raise ValueError(f"{name} in {path} must be a non-empty matrix, but its shape is {np.shape(array)}.")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} in {path} must hold real numbers, but its type is {array.dtype}; save it as float32.")
    with np.errstate(over="ignore"):
        array = array.astype(jnp.zeros(()).dtype, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} in {path} has NaN or infinite values; drop or mend those samples.")
    return array


def _check_shapes(path, arrays: Mapping[str, np.ndarray]) -> None:
    input_dim = arrays["Y_train"].shape[1]
    latents = next((arrays[name].shape[1] for name in ("A", "Z_train", "Z_val", "Z_ood") if name in arrays), None)
    for name, array in sorted(arrays.items()):
        rows = input_dim if name == "A" else len(arrays[f"Y{name[1:]}"])
        wanted = (rows, input_dim if name.startswith("Y") else latents)
        if array.shape != wanted:
            raise ValueError(
                f"{name} in {path} has the shape {array.shape}, but beside the other arrays it must be {wanted}: samples are "
                "rows, and A is (input, latents)."
            )
