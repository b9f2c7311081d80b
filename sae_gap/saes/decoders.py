"""Bare decoders: those that `learn` and `train_real` wrote, and atoms in a file of one array."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from sae_gap.saes.parts import DICTIONARY, Parts
from sae_gap.storage.pickles import map_pt, tensors_of
from sae_gap.storage.tensor_files import Config, Tensors, read_safetensors, reading

# The files that `train_real` writes: atoms as columns, and the bias.
ATOMS, BIAS = "dictionary.npy", "bias.npy"
# Endings of files of atoms.
ENDINGS = (".npy", ".safetensors", ".pt")


def load(path: Path, given: Tensors | None = None) -> Parts:
    """The decoder in a file.

    Args:
      path: file that `LearnedDictionary.save` wrote, of a fit without an encoder, of the atoms that
        `train_real` wrote with their bias beside, or of one array, (input_dim, num_latents).
      given: its tensors, if they are read.

    Returns:
      A dictionary; its bias is None if the file has none.

    Raises:
      ValueError: the file cannot be read, or holds anything else.
    """
    tensors, held, notes = given or read_tensors(path), {}, {}
    if ".dictionary" in tensors:
        atoms = tensors.take(".dictionary", *tensors.shape(".dictionary"))
        held["b_dec"] = tensors.take(".bias", len(atoms))
        if path.name == DICTIONARY:
            notes["l0"] = f"{read_note(path).number('l0'):g}"
    else:
        atoms = tensors.only()
        beside = path.with_name(BIAS)
        if path.name == ATOMS and beside.is_file():
            held["b_dec"] = read_tensors(beside).take("the array", len(atoms))
    return Parts(None, {}, held | {"W_dec": atoms.T}, "sae_gap", "", notes)


def read_note(path: Path) -> Config:
    """The note in a file of the suite."""
    with reading(path, "a file of the suite"), safe_open(path, "numpy") as file:
        return Config(path, json.loads(file.metadata()["note"]))


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors or .pt file, or the array of a .npy file."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    with reading(path, "an array"):
        if path.suffix == ".pt":
            held = map_pt(path)
            return Tensors(
                path, {"the array": held} if isinstance(held, np.ndarray) else tensors_of(held)
            )
        return Tensors(path, {"the array": np.lib.format.open_memmap(path, mode="r")})
