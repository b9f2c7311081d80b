"""Reads a task from the .npz file of a user."""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sae_gap.core.checks import check_path, check_seed, check_size
from sae_gap.core.types import Split, Task
from sae_gap.data.activations import fetched


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


_NAMES = ("Y_train", "Y_val", "Y_ood", "Z_train", "Z_val", "Z_ood", "A")


def _read_arrays(path: pathlib.Path) -> Mapping[str, Any]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; give the path of an .npz written by numpy.savez.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file; write it with numpy.savez.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in _NAMES}
    except Exception as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path} holds pickled objects, which are never loaded; save plain numeric arrays.") from None
        reason = " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as arrays ({reason}); write it again with numpy.savez.") from error


def _check_array(path, name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.ndim != 2 or 0 in array.shape:
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
    for name in ("Y_val", "Y_ood"):
        if arrays[name].shape[1] != input_dim:
            raise ValueError(
                f"{name} in {path} has {arrays[name].shape[1]} columns but Y_train has {input_dim}; they must agree."
            )
    if "A" in arrays and arrays["A"].shape[0] != input_dim:
        raise ValueError(
            f"A in {path} has {arrays['A'].shape[0]} rows but the signals have {input_dim} dimensions; "
            "save it as (input, latents)."
        )
    widths = {name: arrays[name].shape[1] for name in arrays if not name.startswith("Y_")}
    if len(set(widths.values())) > 1:
        raise ValueError(f"the truth in {path} disagrees on the number of latents ({widths}); they must agree.")
    for name in ("train", "val", "ood"):
        if f"Z_{name}" in arrays and len(arrays[f"Z_{name}"]) != len(arrays[f"Y_{name}"]):
            raise ValueError(
                f"Z_{name} in {path} has {len(arrays[f'Z_{name}'])} rows but Y_{name} has {len(arrays[f'Y_{name}'])}; "
                "give one row of codes to each sample."
            )
