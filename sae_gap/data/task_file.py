"""Reads a task from a user's .npz file."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core import Split, Task, check_path, check_seed, check_size
from sae_gap.data import fetched
from sae_gap.storage import Tensors, reading

_NAMES = ("Y_train", "Y_val", "Y_ood", "Z_train", "Z_val", "Z_ood", "A")


def load(path: str | pathlib.Path, *, width: int | None = None, seed: int = 0) -> Task:
    """Reads a task from an .npz file of activations.

    The file holds `Y_train`, `Y_val` and `Y_ood` (samples as rows) and optionally the truth:
    `Z_train`, `Z_val`, `Z_ood` (codes, samples as rows) and `A` (the dictionary, input_dim x
    num_latents). Pickled arrays are refused, never loaded.

    Args:
      path: the file, or its URL in a bucket.
      width: atoms of the dictionaries to learn; None takes the number of true ones.
      seed: seeds the learners.

    Returns:
      The task, in the default float type. Parts of the truth that the file lacks are None.

    Raises:
      ValueError: the file does not hold such a task, or an argument is out of range; the message
        names the fault and the mend.
    """
    check_path("path", path)
    if width is not None:
        check_size("width", width)
    check_seed(seed)
    file = fetched(path)
    with reading(file, "arrays in an .npz file"), np.load(file, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in _NAMES if name in archive}
    dtype = jnp.zeros(()).dtype
    with np.errstate(over="ignore"):
        for name, part in arrays.items():
            arrays[name] = part.astype(dtype) if part.dtype.kind in "fiu" else part
    tensors = Tensors(file, arrays)
    input_dim = tensors.shape("Y_train")[1]
    widths = [
        tensors.shape(name)[1] for name in ("A", "Z_train", "Z_val", "Z_ood") if name in tensors
    ]
    if not widths and width is None:
        raise ValueError(
            f"{path} holds neither codes nor a dictionary, so how many atoms to learn is unknown; "
            "give width."
        )

    def matrix(name: str, rows: int) -> jax.Array | None:
        return jnp.asarray(tensors.take(name, rows, widths[0])) if name in tensors else None

    def split(name: str) -> Split:
        signals = tensors.take(f"Y_{name}", tensors.shape(f"Y_{name}")[0], input_dim)
        return Split(jnp.asarray(signals), matrix(f"Z_{name}", len(signals)))

    dictionary = matrix("A", input_dim)
    return Task(
        split("train"),
        split("val"),
        split("ood"),
        dictionary,
        width=int(width or widths[0]),
        seed=seed,
    )
