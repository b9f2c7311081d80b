"""Reads what the suite wrote: finished fits, dictionaries that `learn` learned, the atoms of
`train_real`, and atoms in a file of one array. No JAX is loaded.
"""

import json
from typing import Any

import numpy as np
from safetensors import safe_open

from sae_gap.saes.files import ALONE, read_tensors
from sae_gap.saes.parts import (
    DICTIONARY,
    ENCODERS,
    LOGARITHMS,
    NOTED,
    OWN,
    Parts,
    Sizes,
    read_options,
    take,
)
from sae_gap.storage import Config, Tensors, reading

# The files that `train_real` writes: atoms as columns, and the bias.
ATOMS = "dictionary.npy"
BIAS = "bias.npy"
# Entries of the note that a report shows.
_SHOWN = ("learner", "seed", "data", *NOTED)
# Our names of a fit's tensors apart from those of its encoder.
_NAMES = {"W_dec": ".dictionary", "b_dec": ".bias", "W_skip": ".skip"}


def decoder(config: Config, tensors: Tensors) -> Parts:
    """The decoder of what `LearnedDictionary.save` wrote, of a fit without an encoder, of the atoms
    that `train_real` wrote with their bias beside, or of one array, (input_dim, num_latents), which
    has no b_dec.

    Raises:
      ValueError: the file holds anything else.
    """
    path = tensors.path
    held = {}
    notes = {}
    if ".dictionary" in tensors:
        atoms = tensors.take(".dictionary", *tensors.shape(".dictionary"))
        held["b_dec"] = tensors.take(".bias", len(atoms))
        if path.name == DICTIONARY:
            notes["l0"] = f"{_read_note(tensors).number('l0'):g}"
    else:
        atoms = tensors.only()
        bias = path.with_name(BIAS)
        if path.name == ATOMS and bias.is_file():
            held["b_dec"] = read_tensors(bias).take(ALONE, len(atoms))
    held["W_dec"] = atoms.T
    return Parts(None, {}, held, "sae_gap", "", notes)


def fit(config: Config, tensors: Tensors) -> Parts:
    """The SAE of a finished fit, in SAELens's terms if SAELens has the encoder, and else with its
    tensors as they are; a bare decoder if the fit trained no encoder.

    Raises:
      ValueError: the note cannot be read, or the parts do not fit.
    """
    note = _read_note(tensors)
    learner = note.part("learner")
    described = learner.part("encoder")
    learned_by = learner.text("class", "").rpartition(".")[2]
    if learned_by and not described.entries:
        return decoder(config, tensors)
    metadata = note.part("metadata").entries
    entries = {"learner": learned_by or None} | note.part("source").entries | metadata
    notes = {"fit": tensors.path.parent.name}
    notes |= Config(note.path, entries).texts(*_SHOWN)
    sizes = _sizes(tensors)
    num_latents = sizes.num_latents
    known = {}
    if ".centre" in tensors:
        known["centre"] = tensors.take(".centre", sizes.num_inputs)
    encoder = described.text("class", "")
    architecture = encoder.removeprefix("sae_gap.")
    names = _NAMES
    if encoder in ENCODERS:
        encoder, places = ENCODERS[encoder]
        names = _NAMES | {ours: f"{OWN}{place}" for ours, place in places.items()}
        if "threshold" in places:
            known["threshold"] = _threshold(tensors, places["threshold"], num_latents)
        options = read_options(encoder, described, sizes)
        if "k" in described and not options:
            notes["k"] = str(described.size("k", most=num_latents))
    else:
        options = described.entries
        for name in tensors:
            if name.startswith(OWN):
                known[name] = tensors.take(name, *tensors.sizes(name))
    return Parts(
        encoder,
        options,
        take(
            encoder,
            tensors,
            sizes,
            names=names,
            linear=("W_dec",),
            known=known,
            skip=".skip" in tensors,
        ),
        "sae_gap",
        architecture,
        notes,
        centred=True,
        transcodes=".centre" in tensors,
        metadata=metadata,
    )


def _sizes(tensors: Tensors) -> Sizes:
    """The sizes of a fit; that of a transcoder has a centre of what it reads."""
    input_dim, num_latents = tensors.shape(".dictionary")
    num_inputs = input_dim
    if ".centre" in tensors:
        (num_inputs,) = tensors.sizes(".centre")
    return Sizes(num_inputs, num_latents, input_dim)


def _threshold(tensors: Tensors, place: str, num_latents: int) -> Any:
    """The threshold of each latent, or one for all."""
    if place == LOGARITHMS:
        return np.exp(tensors.take(f"{OWN}{place}", num_latents))
    return tensors.scalar(f"{OWN}{place}")


def _read_note(tensors: Tensors) -> Config:
    """The note in a file of the suite, whose tensors must be those that were written."""
    path = tensors.path
    with reading(path, "a file of the suite"), safe_open(path, "numpy") as file:
        metadata = file.metadata()
        if metadata["crc32"] != tensors.checksum():
            raise ValueError("its numbers are not those that were written")
        return Config(path, dict(json.loads(metadata["note"])))
