"""Finds the weights of an SAE at a path, or in the cache of the Hugging Face hub, where SAELens and
`hf download` put them; and a folder that is free for one. It downloads nothing, and loads no JAX.
"""

import re
from collections.abc import Mapping
from os import environ
from pathlib import Path

from sae_gap.core import AnyPath, check_path, printable
from sae_gap.saes.readers import READERS, holds
from sae_gap.storage import Folder, listed, package_folders

# Endings of files of atoms.
ENDINGS = (".npy", ".safetensors", ".pt")
_EXPECTED = f"which are called {', '.join(READERS)}"


def write_free(folder: AnyPath, files: Mapping[str, bytes] | None = None) -> None:
    """Writes files by their names; raises a ValueError if the folder has others already, or cannot
    be written to. None only looks whether it is free, or has the weights of an SAE.
    """
    check_path("folder", folder)
    place = Folder(folder)
    try:
        names = place.names()
        if files is None:
            free = any(map(holds, names))
            files = {}
        else:
            free = names == sorted(files) and all(
                place.read(name) == files[name] for name in names
            )
        if names and not free:
            raise FileExistsError(0, "another SAE or file is there already")
        for name, content in files.items():
            place.write(name, content)
    except OSError as error:
        raise ValueError(
            f"the SAE cannot be written to {folder} ({error.strerror}); choose another folder."
        ) from None


def locate(path: AnyPath, sae_id: str | None) -> Path:
    """The file of the weights of an SAE; the arguments and the errors are those of `load_sae`."""
    place = check_path("path", path)
    if sae_id is not None:
        place = cached(str(path), sae_id)
    if not place.is_file():
        place = _weights_in(place)
    if not (holds(place.name) or place.suffix in ENDINGS):
        raise ValueError(
            f"{place} is not the weights of an SAE, {_EXPECTED}, nor atoms in a "
            f"{', '.join(ENDINGS)} file; give one of these."
        )
    return place


def _weights_in(folder: Path) -> Path:
    """The only file of weights in a folder."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is neither a folder nor a file; check the path of the SAE."
        )
    weights = _weights_below(folder, 0)
    if len(weights) == 1:
        return weights[0]
    if weights:
        raise ValueError(
            f"{folder} has several files of weights, {listed(weights, folder)}; give the path of "
            "one."
        )
    for depth in range(1, 5):
        weights += _weights_below(folder, depth)
    named = _EXPECTED
    if weights:
        below = listed(sorted({file.parent for file in weights}), folder)
        named = f"but these below it have: {below}; give the path of one"
    raise ValueError(f"{folder} has no weights of an SAE, {named}.")


def _weights_below(folder: Path, depth: int) -> list[Path]:
    """The files of weights so many folders below a folder."""
    files = folder.glob("*/" * depth + "*")
    return sorted(file for file in files if holds(file.name) and file.is_file())


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
    home = environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    release, sae_id = _of_saelens(release, sae_id)
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


def _of_saelens(release: str, sae_id: str) -> tuple[str, str]:
    """The repository and the path of an SAE by the table of an installed SAELens, which is read
    without an import; release and SAE as they are if the table has none of that name.
    """
    tables = ""
    for folder in package_folders("sae_lens"):
        tables += (folder / "pretrained_saes.yaml").read_text("utf-8")
    # Parsing the whole table takes seconds.
    block = re.search(
        rf"^{re.escape(release)}:\n(?:[ -].*\n|\n)*", tables, re.MULTILINE
    )
    if block is None:
        return release, sae_id
    import yaml  # type: ignore[import-untyped]

    entry = yaml.safe_load(block[0])[release]
    paths = {sae["id"]: sae["path"] for sae in entry["saes"]}
    if sae_id not in paths:
        raise ValueError(
            f"{printable(release)} has no SAE {printable(sae_id)}, but "
            f"{listed([*paths])}; give one of them."
        )
    return entry["repo_id"], paths[sae_id]
