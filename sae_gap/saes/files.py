"""Reads the tensors of a file of weights of any format. No JAX is loaded."""

from pathlib import Path

import numpy as np

from sae_gap.storage import (
    Tensors,
    map_pt,
    read_npz,
    read_safetensors,
    reading,
    tensors_of,
)

# The name of an array that is alone in its file.
ALONE = "the array"


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors, .npz or .pt file, or the array of a .npy file."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        return read_npz(path)
    with reading(path, "weights of an SAE or an array"):
        if path.suffix == ".pt":
            content = map_pt(path)
        else:
            content = np.lib.format.open_memmap(path, mode="r")
        if isinstance(content, np.ndarray):
            return Tensors(path, {ALONE: content})
        return Tensors(path, tensors_of(content))
