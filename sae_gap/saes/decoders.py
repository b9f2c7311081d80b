"""Decoders alone: what `learn` and `train_real` wrote, and atoms in a file of one array."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from sae_gap.saes.parts import DICTIONARY, Parts
from sae_gap.storage.pickles import map_pt, tensors_of
from sae_gap.storage.tensor_files import Tensors, read_safetensors, reading

# The files that `train_real` writes: atoms as columns, and what is added to their sums.
ATOMS, BIAS = "dictionary.npy", "bias.npy"
# How a file of atoms may end.
ENDINGS = (".npy", ".safetensors", ".pt")


def load(path: Path) -> Parts:
    """The decoder in a file.

    Args:
      path: of what `LearnedDictionary.save` wrote, of a fit without an encoder, of the atoms that
        `train_real` wrote with their bias beside, or of one array, (input_dim, num_latents).

    Returns:
      A dictionary; its bias is None where the file has none.

    Raises:
      ValueError: the file cannot be read, or holds anything else.
    """
    tensors, bias, notes = _tensors(path), None, {}
    if ".dictionary" in tensors:
        atoms = tensors.take(".dictionary", *tensors.shape(".dictionary"))
        bias = tensors.take(".bias", len(atoms))
        if path.name == DICTIONARY:
            with reading(path, "a learned dictionary"), safe_open(path, "numpy") as file:
                notes["l0"] = f"{float(json.loads(file.metadata()['note'])['l0']):g}"
    else:
        atoms = tensors.only()
        beside = path.with_name(BIAS)
        if path.name == ATOMS and beside.is_file():
            bias = _tensors(beside).take("the array", len(atoms))
    return Parts(None, {}, atoms.T, bias, None, "sae_gap", "", notes)


def read_matrix(path: str) -> Float[np.ndarray, "rows columns"]:
    """The finite matrix that a .npy, .safetensors or .pt file holds alone, in float32.

    Raises:
      ValueError: the file cannot be read, or holds anything else.
    """
    return _tensors(Path(path).expanduser()).only().astype(np.float32)


def _tensors(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    with reading(path, "an array"):
        if path.suffix == ".pt":
            held = map_pt(path)
            return Tensors(
                path, {"the array": held} if isinstance(held, np.ndarray) else tensors_of(held)
            )
        return Tensors(path, {"the array": np.lib.format.open_memmap(path, mode="r")})
