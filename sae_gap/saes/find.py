"""Finds which library wrote the files at a path or in the cache of the Hugging Face hub, where
SAELens and `hf download` put them, and reads them without JAX; downloads nothing.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

from sae_gap.core import AnyPath, check_path
from sae_gap.saes import own, published, saelens
from sae_gap.saes.parts import DICTIONARY, FIT, Parts
from sae_gap.storage import Config, Folder, listed, package_folders, printable, read_json

# How to read an SAE, by the file name of its weights: from its configuration, which has a name if
# there is one, and its tensors.
_READERS = {
    saelens.WEIGHTS: (saelens.load, saelens.CONFIG),
    "sae.safetensors": (published.sparsify, "cfg.json"),
    "ae.pt": (published.dictionary_learning, "config.json"),
    "params.npz": (published.gemma_scope, ""),
    "params.safetensors": (published.gemma_scope, "config.json"),
    FIT: (own.fit, ""),
    DICTIONARY: (own.decoder, ""),
    own.ATOMS: (own.decoder, ""),
    # The name that the replication of crosscoders for model diffing gives its weights.
    "cc_weights.pt": (published.one_file, ""),
}
_EXPECTED = f"which are called {', '.join(_READERS)}"
# dictionary_learning's names of weights during training.
_AMID_TRAINING = re.compile(r"^ae_\d+\.pt$")
_PATTERNS = (_AMID_TRAINING, published.LAYER, published.CROSS_LAYER)
# How many folders deep to search for SAEs.
_DEPTH = 5


def write_free(folder: AnyPath, files: Iterable[tuple[str, bytes]] = ()) -> None:
    """Writes files by their names; raises a ValueError if the folder has some already, or cannot be
    written to.
    """
    check_path("folder", folder)
    place = Folder(folder)
    try:
        if place.names():
            raise FileExistsError(0, "it is there already")
        for name, content in files:
            place.write(name, content)
    except OSError as error:
        raise ValueError(
            f"the SAE cannot be written to {folder} ({error.strerror}); choose another folder."
        ) from None


def locate(path: AnyPath, sae_id: str | None = None) -> Path:
    """The file of the weights of an SAE; the arguments and the errors are those of `load_sae`."""
    check_path("path", path)
    place = Path(os.path.expanduser(path)) if sae_id is None else cached(str(path), sae_id)
    weights = _weights(place)
    if not (holds(weights.name) or weights.suffix in own.ENDINGS):
        raise ValueError(
            f"{weights} is not the weights of an SAE, {_EXPECTED}, nor atoms in a "
            f"{', '.join(own.ENDINGS)} file; give one of these."
        )
    return weights


def read(weights: Path) -> Parts:
    """Reads a file that `locate` found."""
    name, folder = _AMID_TRAINING.sub("ae.pt", weights.name), weights.parent
    load, beside = _READERS.get(name, (published.one_file, ""))
    if name == "ae.pt" and folder.name == "checkpoints":
        folder = folder.parent
    path, tensors = folder / beside, own.read_tensors(weights)
    needed = beside and (load is not published.gemma_scope or path.exists())
    parts = load(Config(path, read_json(path) if needed else {}), tensors)
    if parts.library == "sae_gap":
        return parts
    tensors.finish(parts.architecture)
    return dataclasses.replace(parts, notes={"dtype on disk": tensors.dtypes(), **parts.notes})


def holds(name: str) -> bool:
    """True if a file of this name holds weights, whose folder identifies the SAE."""
    return name in _READERS or any(pattern.fullmatch(name) for pattern in _PATTERNS)


def _weights(path):
    """The file of weights at a path, or the one in a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path} is neither a folder nor a file; check the path of the SAE.")
    found = _found(path, 0)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{path} has several files of weights, {listed(found, path)}; give the path of one."
        )
    below = sorted({place.parent for depth in range(1, _DEPTH) for place in _found(path, depth)})
    named = f"but these below it have: {listed(below, path)}; give the path of one"
    raise ValueError(f"{path} has no weights of an SAE, {named if below else _EXPECTED}.")


def _found(folder, depth):
    """The files of weights `depth` folders below a folder."""
    return sorted(
        place for place in folder.glob("*/" * depth + "*") if holds(place.name) and place.is_file()
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
    revision = folder / "refs" / "main"
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
    block = re.search(rf"^{re.escape(release)}:\n(?:[ -].*\n|\n)*", tables, re.MULTILINE)
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
