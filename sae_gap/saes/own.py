"""Reads what the suite itself wrote, without JAX: finished fits, and bare decoders, those that
`learn` and `train_real` wrote and atoms in a file of one array; and an SAE that is given as arrays,
of either orientation.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from sae_gap.core import as_real, check_flag, check_integer
from sae_gap.saes.parts import (
    ARCHITECTURES,
    DICTIONARY,
    ENCODERS,
    LOGARITHMS,
    NOTED,
    OWN,
    Parts,
    read_options,
    take,
)
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
# Names of the decoder's tensors in a fit.
_MODEL = {"W_dec": ".dictionary", "b_dec": ".bias", "W_skip": ".skip"}
# Entries of the note that a report shows.
_SHOWN = ("learner", "seed", "data", *NOTED)
# By the architecture of arrays, and whether k and a threshold are given: what infers.
_ENCODERS = {
    ("relu", False, False): "standard",
    ("topk", True, False): "topk",
    ("jumprelu", False, True): "jumprelu",
    ("batchtopk", False, True): "jumprelu",
    ("batchtopk", True, True): "jumprelu",
    ("batchtopk", True, False): "batch_largest",
}


def decoder(config: Config, tensors: Tensors) -> Parts:
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


def fit(config: Config, tensors: Tensors) -> Parts:
    """The SAE of a finished fit, in SAELens's terms if SAELens has the encoder, and else with its
    tensors as they are; a bare decoder if the fit trained no encoder.

    Raises:
      ValueError: the note cannot be read, or the parts do not fit.
    """
    note = read_note(tensors)
    learner, metadata = note.part("learner"), note.part("metadata").entries
    described, name = learner.part("encoder"), learner.text("class", "").rpartition(".")[2]
    if name and not described.entries:
        return decoder(config, tensors)
    entries = {"learner": name or None} | note.part("source").entries | metadata
    notes = {"fit": tensors.path.parent.name}
    notes |= {part: str(entries[part]) for part in _SHOWN if entries.get(part) is not None}
    encoder = described.text("class", "")
    architecture = encoder.removeprefix("sae_gap.")
    input_dim, num_latents = tensors.shape(".dictionary")
    read, names, known = input_dim, dict[str, str](), dict[str, Any]()
    if transcodes := ".centre" in tensors:
        (read,) = tensors.sizes(".centre")
        known["centre"] = tensors.take(".centre", read)
    if encoder in ENCODERS:
        encoder, places = ENCODERS[encoder]
        names = {ours: f"{OWN}{place}" for ours, place in places.items()}
        if places.get("threshold") == LOGARITHMS:
            known["threshold"] = np.exp(tensors.take(names["threshold"], num_latents))
        elif "threshold" in places:
            known["threshold"] = tensors.scalar(names["threshold"])
        options = read_options(encoder, described, num_latents, input_dim)
        if "k" in described and not options:
            notes["k"] = str(described.size("k", most=num_latents))
    else:
        options = described.entries
        known |= {
            name: tensors.take(name, *tensors.sizes(name))
            for name in tensors
            if name.startswith(OWN)
        }
    sizes = read, num_latents, input_dim
    linear, skip = ("W_dec",), ".skip" in tensors
    names |= _MODEL
    held = take(encoder, tensors, sizes, names=names, linear=linear, known=known, skip=skip)
    whole = encoder, options, held, "sae_gap", architecture, notes
    return Parts(*whole, centred=True, transcodes=transcodes, metadata=metadata)


def read_note(tensors: Tensors) -> Config:
    """The note in a file of the suite, whose tensors must be those that were written."""
    path = tensors.path
    with reading(path, "a file of the suite"), safe_open(path, "numpy") as file:
        told = file.metadata()
        if told["crc32"] != str(tensors.checksum()):
            raise ValueError("its numbers are not those that were written")
        return Config(path, json.loads(told["note"]))


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors, .npz or .pt file, or the array of a .npy file."""
    if path.suffix in (".safetensors", ".npz"):
        return (read_npz if path.suffix == ".npz" else read_safetensors)(path)
    with reading(path, "weights of an SAE or an array"):
        held = map_pt(path) if path.suffix == ".pt" else np.lib.format.open_memmap(path, mode="r")
        return Tensors(path, {_ALONE: held} if isinstance(held, np.ndarray) else tensors_of(held))


def of_arrays(
    given: Mapping[str, Any],
    architecture: str,
    *,
    k: int | None = None,
    threshold: Any = None,
    centred: bool = True,
    linear: bool | None = None,
    transcoder: bool = False,
    W_skip: Any = None,  # noqa: N803
) -> Parts:
    """The SAE of `W_enc`, `b_enc`, `W_dec` and `b_dec`; the options and the errors are those of
    `SAE.from_arrays`.
    """
    encoder = _ENCODERS.get((architecture, k is not None, threshold is not None))
    if encoder is None:
        raise ValueError(
            f"{architecture!r} with k={k} and a threshold {threshold} is no SAE; relu takes "
            "neither, topk k, jumprelu a threshold, and batchtopk a threshold or k."
        )
    check_flag("centred", centred)
    check_flag("linear", linear or False)
    check_flag("transcoder", transcoder)
    arrays = {**given, "threshold": threshold, "W_skip": W_skip}
    held = {
        name: as_real(name, value, "an array of floats")
        for name, value in arrays.items()
        if name in given or value is not None
    }
    if "W_skip" in held and not transcoder:
        raise ValueError("an SAE has no W_skip; give transcoder=True, or leave it out.")
    num_latents, input_dim = held["b_enc"].size, held["b_dec"].size
    read = held["W_enc"].size // max(1, num_latents) if transcoder else input_dim
    if k is not None:
        check_integer("k", k, least=1, most=num_latents)

    # Shapes of torch.nn.Linear; the shape of a square matrix does not tell which way round it is.
    shapes = {
        "W_enc": (num_latents, read),
        "W_dec": (input_dim, num_latents),
        "W_skip": (input_dim, read),
    }
    square = [name for name in held if name in shapes and len({*shapes[name]}) == 1]
    for name in shapes.keys() & held.keys():
        if linear if name in square else held[name].shape == shapes[name]:
            held[name] = held[name].T
    notes = dict[str, str]()
    if square and linear is None:
        products = (f"{'z' if name == 'W_dec' else 'x'} @ {name}" for name in square)
        notes["square matrices"] = (
            f"taken as {' and '.join(products)}; linear=True takes torch.nn.Linear's"
        )
    if encoder == "jumprelu" and held["threshold"].size == 1:
        held["threshold"] = np.resize(held["threshold"], num_latents)
    elif k is not None:
        notes["k"] = str(k)
    tensors = Tensors(Path("the arrays"), held)
    notes["dtype given"] = tensors.dtypes()
    held = take(encoder, tensors, (read, num_latents, input_dim), skip="W_skip" in held)
    options = dict.fromkeys(ARCHITECTURES[encoder].options, k)
    whole = encoder, options, held, "given", architecture, notes
    return Parts(*whole, centred=centred, transcodes=transcoder)
