"""Finds which library wrote the files at a path or in the cache of the Hugging Face hub, where
SAELens and `hf download` put them, and reads them without JAX; downloads nothing.

It reads itself what the suite wrote: finished fits, and bare decoders, those that `learn` and
`train_real` wrote and atoms in a file of one array; and an SAE that is given as arrays, of either
orientation.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from sae_gap.core import AnyPath, as_real, check_flag, check_integer, check_path
from sae_gap.saes import published
from sae_gap.saes.parts import (
    ARCHITECTURES,
    DICTIONARY,
    ENCODERS,
    FIT,
    LOGARITHMS,
    NOTED,
    OWN,
    Parts,
    read_options,
    take,
)
from sae_gap.storage import (
    Config,
    Folder,
    Tensors,
    listed,
    map_pt,
    package_folders,
    printable,
    read_json,
    read_npz,
    read_safetensors,
    reading,
    tensors_of,
)

# The files that `train_real` writes: atoms as columns, and the bias.
ATOMS = "dictionary.npy"
BIAS = "bias.npy"
# Endings of files of atoms.
ENDINGS = (".npy", ".safetensors", ".pt")
_ALONE = "the array"
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


def write_free(folder: AnyPath, files: Mapping[str, bytes] | None = None) -> None:
    """Writes files by their names; raises a ValueError if the folder has others already, or cannot
    be written to. None only looks whether it is free, or has the weights of an SAE.
    """
    check_path("folder", folder)
    place = Folder(folder)
    try:
        names = place.names()
        if files is None:
            same = any(map(holds, names))
        else:
            same = names == sorted(files) and all(
                place.read(name) == files[name] for name in names
            )
        if names and not same:
            raise FileExistsError(0, "another SAE or file is there already")
        for name, content in (files or {}).items():
            place.write(name, content)
    except OSError as error:
        raise ValueError(
            f"the SAE cannot be written to {folder} ({error.strerror}); choose another folder."
        ) from None


def locate(path: AnyPath, sae_id: str | None = None) -> Path:
    """The file of the weights of an SAE; the arguments and the errors are those of `load_sae`."""
    place = check_path("path", path)
    if sae_id is not None:
        place = cached(str(path), sae_id)
    weights = _weights(place)
    if not (holds(weights.name) or weights.suffix in ENDINGS):
        raise ValueError(
            f"{weights} is not the weights of an SAE, {_EXPECTED}, nor atoms in a "
            f"{', '.join(ENDINGS)} file; give one of these."
        )
    return weights


def read(weights: Path) -> Parts:
    """Reads a file that `locate` found."""
    name = _AMID_TRAINING.sub("ae.pt", weights.name)
    folder = weights.parent
    load, beside = _READERS.get(name, (_one_file, ""))
    if name == "ae.pt" and folder.name == "checkpoints":
        folder = folder.parent
    path = folder / beside
    tensors = read_tensors(weights)
    needed = beside and (load is not published.gemma_scope or path.exists())
    parts = load(Config(path, read_json(path) if needed else {}), tensors)
    if parts.library == "sae_gap":
        return parts
    tensors.finish(parts.architecture)
    return dataclasses.replace(
        parts, notes={"dtype on disk": tensors.dtypes(), **parts.notes}
    )


def holds(name: str) -> bool:
    """True if a file of this name holds weights, whose folder identifies the SAE."""
    return name in _READERS or any(pattern.fullmatch(name) for pattern in _PATTERNS)


def _weights(path):
    """The file of weights at a path, or the one in a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(
            f"{path} is neither a folder nor a file; check the path of the SAE."
        )
    found = _found(path, 0)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{path} has several files of weights, {listed(found, path)}; give the path of one."
        )
    below = sorted(
        {place.parent for depth in range(1, 5) for place in _found(path, depth)}
    )
    named = f"but these below it have: {listed(below, path)}; give the path of one"
    raise ValueError(
        f"{path} has no weights of an SAE, {named if below else _EXPECTED}."
    )


def _found(folder, depth):
    """The files of weights `depth` folders below a folder."""
    return sorted(
        place
        for place in folder.glob("*/" * depth + "*")
        if holds(place.name) and place.is_file()
    )


def cached(release: str, sae_id: str) -> Path:
    """The folder of an SAE in the cache.

    The cache is the first of `HF_HUB_CACHE`, `HF_HOME/hub` and `~/.cache/huggingface/hub` that is
    set.

    Args:
      release: a repository `org/name`, or a name in SAELens's table if `sae_lens` is installed.
      sae_id: the SAE's name in that table, or its path in the repository.

    Returns:
      The folder.

    Raises:
      ValueError: the SAE is not in the cache; the message says how to get it.
    """
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    release, sae_id = _of_saelens(release, sae_id) or (release, sae_id)
    folder = cache / f"models--{release.replace('/', '--')}"
    revision = folder / "refs/main"
    name = revision.read_text().strip() if revision.is_file() else "main"
    place = folder / "snapshots" / name / sae_id
    if not place.exists():
        raise ValueError(
            f"{printable(sae_id)} of {printable(release)} is not in {cache}; get it by hf download "
            f"{printable(release)} --include '{printable(sae_id)}/*'."
        )
    return place


def _of_saelens(release, sae_id):
    """The repository and the path of an SAE from an installed SAELens's table, which is read
    without an import.
    """
    tables = "".join(
        (folder / "pretrained_saes.yaml").read_text("utf-8")
        for folder in package_folders("sae_lens")
    )
    # Parsing the whole table takes seconds.
    block = re.search(
        rf"^{re.escape(release)}:\n(?:[ -].*\n|\n)*", tables, re.MULTILINE
    )
    if block is None:
        return None
    import yaml  # type: ignore[import-untyped]

    told = yaml.safe_load(block[0])[release]
    paths = {entry["id"]: entry["path"] for entry in told["saes"]}
    if sae_id not in paths:
        raise ValueError(
            f"{printable(release)} has no SAE {printable(sae_id)}, but "
            f"{listed([*paths])}; give one of them."
        )
    return told["repo_id"], paths[sae_id]


def _one_file(config, tensors):
    """What lies in one file without a configuration, by the tensors in it: a transcoder of
    circuit-tracer, an acausal crosscoder, and else a bare decoder.

    Raises:
      ValueError: the file holds anything else.
    """
    path = tensors.path
    if published.CROSS_LAYER.fullmatch(path.name):
        raise ValueError(
            f"{path} is of a cross-layer transcoder, whose codes add to many layers; give a "
            "transcoder of one layer."
        )
    if "W_enc" not in tensors:
        return _decoder(config, tensors)
    sizes = tensors.sizes("W_enc")
    if len(sizes) == 3 and all(sizes):
        return published.crosscoder(tensors, sizes)
    layer = published.LAYER.fullmatch(path.name)
    if layer is None:
        raise ValueError(
            f"{path} has a W_enc and no configuration, so that nothing tells its library; keep the "
            "names of its files, or give the arrays to SAE.from_arrays."
        )
    return published.circuit_tracer(tensors, layer[1])


def _decoder(config, tensors):
    """The decoder of what `LearnedDictionary.save` wrote, of a fit without an encoder, of the atoms
    that `train_real` wrote with their bias beside, or of one array, (input_dim, num_latents), which
    has no b_dec.

    Raises:
      ValueError: the file holds anything else.
    """
    held = {}
    notes = {}
    path = tensors.path
    if ".dictionary" in tensors:
        atoms = tensors.take(".dictionary", *tensors.shape(".dictionary"))
        held["b_dec"] = tensors.take(".bias", len(atoms))
        if path.name == DICTIONARY:
            notes["l0"] = f"{_read_note(tensors).number('l0'):g}"
    else:
        atoms = tensors.only()
        beside = path.with_name(BIAS)
        if path.name == ATOMS and beside.is_file():
            held["b_dec"] = read_tensors(beside).take(_ALONE, len(atoms))
    return Parts(None, {}, held | {"W_dec": atoms.T}, "sae_gap", "", notes)


def _fit(config, tensors):
    """The SAE of a finished fit, in SAELens's terms if SAELens has the encoder, and else with its
    tensors as they are; a bare decoder if the fit trained no encoder.

    Raises:
      ValueError: the note cannot be read, or the parts do not fit.
    """
    note = _read_note(tensors)
    learner = note.part("learner")
    metadata = note.part("metadata").entries
    described = learner.part("encoder")
    name = learner.text("class", "").rpartition(".")[2]
    if name and not described.entries:
        return _decoder(config, tensors)
    entries = {"learner": name or None} | note.part("source").entries | metadata
    notes = {"fit": tensors.path.parent.name}
    notes |= Config(note.path, entries).texts(*_SHOWN)
    encoder = described.text("class", "")
    architecture = encoder.removeprefix("sae_gap.")
    input_dim, num_latents = tensors.shape(".dictionary")
    read = input_dim
    names: dict[str, str] = {}
    known: dict[str, Any] = {}
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
    held = take(
        encoder,
        tensors,
        (read, num_latents, input_dim),
        names=names | {"W_dec": ".dictionary", "b_dec": ".bias", "W_skip": ".skip"},
        linear=("W_dec",),
        known=known,
        skip=".skip" in tensors,
    )
    return Parts(
        encoder,
        options,
        held,
        "sae_gap",
        architecture,
        notes,
        centred=True,
        transcodes=transcodes,
        metadata=metadata,
    )


def _read_note(tensors):
    """The note in a file of the suite, whose tensors must be those that were written."""
    path = tensors.path
    with reading(path, "a file of the suite"), safe_open(path, "numpy") as file:
        told = file.metadata()
        if told["crc32"] != tensors.checksum():
            raise ValueError("its numbers are not those that were written")
        return Config(path, json.loads(told["note"]))


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors, .npz or .pt file, or the array of a .npy file."""
    if path.suffix in (".safetensors", ".npz"):
        return (read_npz if path.suffix == ".npz" else read_safetensors)(path)
    with reading(path, "weights of an SAE or an array"):
        held = (
            map_pt(path)
            if path.suffix == ".pt"
            else np.lib.format.open_memmap(path, mode="r")
        )
        return Tensors(
            path, {_ALONE: held} if isinstance(held, np.ndarray) else tensors_of(held)
        )


def of_arrays(
    given,
    architecture,
    *,
    k=None,
    threshold=None,
    centred=True,
    linear=None,
    transcoder=False,
    W_skip=None,  # noqa: N803
):
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
    num_latents = held["b_enc"].size
    input_dim = held["b_dec"].size
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
    notes: dict[str, str] = {}
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
    return Parts(
        encoder,
        options,
        held,
        "given",
        architecture,
        notes,
        centred=centred,
        transcodes=transcoder,
    )


# How to read an SAE, by the file name of its weights: from its configuration, which has a name if
# there is one, and its tensors.
_READERS = {
    published.WEIGHTS: (published.saelens, published.CONFIG),
    "sae.safetensors": (published.sparsify, "cfg.json"),
    "ae.pt": (published.dictionary_learning, "config.json"),
    "params.npz": (published.gemma_scope, ""),
    "params.safetensors": (published.gemma_scope, "config.json"),
    FIT: (_fit, ""),
    DICTIONARY: (_decoder, ""),
    ATOMS: (_decoder, ""),
    # The name that the replication of crosscoders for model diffing gives its weights.
    "cc_weights.pt": (_one_file, ""),
}
_EXPECTED = f"which are called {', '.join(_READERS)}"
# dictionary_learning's names of weights during training.
_AMID_TRAINING = re.compile(r"^ae_\d+\.pt$")
_PATTERNS = (_AMID_TRAINING, published.LAYER, published.CROSS_LAYER)
