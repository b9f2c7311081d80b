"""Bare decoders: those that `learn` and `train_real` wrote, and atoms in a file of one array."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from sae_gap.saes.parts import DICTIONARY, Parts
from sae_gap.storage import (
    Config,
    Tensors,
    map_pt,
    read_npz,
    read_safetensors,
    reading,
    tensors_of,
)

# The files that `train_real` writes: atoms as columns, and the bias.
ATOMS, BIAS = "dictionary.npy", "bias.npy"
# Endings of files of atoms.
ENDINGS = (".npy", ".safetensors", ".pt")
_ALONE = "the array"


def load(config: Config, tensors: Tensors) -> Parts:
    """The decoder of what `LearnedDictionary.save` wrote, of a fit without an encoder, of the atoms
    that `train_real` wrote with their bias beside, or of one array, (input_dim, num_latents), which
    has no b_dec.

    Raises:
      ValueError: the file holds anything else.
    """
    held, notes, path = {}, {}, tensors.path
    if ".dictionary" in tensors:
        atoms = tensors.take(".dictionary", *tensors.shape(".dictionary"))
        held["b_dec"] = tensors.take(".bias", len(atoms))
        if path.name == DICTIONARY:
            notes["l0"] = f"{read_note(tensors).number('l0'):g}"
    else:
        atoms = tensors.only()
        beside = path.with_name(BIAS)
        if path.name == ATOMS and beside.is_file():
            held["b_dec"] = read_tensors(beside).take(_ALONE, len(atoms))
    return Parts(None, {}, held | {"W_dec": atoms.T}, "sae_gap", "", notes)


def read_note(tensors: Tensors) -> Config:
    """The note in a file of the suite."""
    path = tensors.path
    with reading(path, "a file of the suite"), safe_open(path, "numpy") as file:
        return Config(path, json.loads(file.metadata()["note"]))


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors, .npz or .pt file, or the array of a .npy file."""
    if path.suffix in (".safetensors", ".npz"):
        return (read_npz if path.suffix == ".npz" else read_safetensors)(path)
    with reading(path, "weights of an SAE or an array"):
        held = map_pt(path) if path.suffix == ".pt" else np.lib.format.open_memmap(path, mode="r")
        alone = isinstance(held, np.ndarray)
        return Tensors(path, {_ALONE: held} if alone else tensors_of(held))
