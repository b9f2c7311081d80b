"""Which library wrote the files at a path, and the SAE in them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from sae_gap.core.checks import check_path
from sae_gap.saes import dictionary_learning, gemma_scope, hub, own, saelens, sparsify
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.tensor_files import printable

# The weights of an SAE by their file name, and how a folder of them is read.
_READERS: dict[str, Callable[[Path], SAE]] = {
    saelens.WEIGHTS: lambda path: saelens.load(path.parent),
    sparsify.WEIGHTS: lambda path: sparsify.load(path.parent),
    dictionary_learning.WEIGHTS: dictionary_learning.load,
    gemma_scope.WEIGHTS: gemma_scope.load,
    gemma_scope.WEIGHTS_2: gemma_scope.load,
    own.WEIGHTS: own.load_fit,
}
_EXPECTED = f"which are called {', '.join(_READERS)}"
# How far below a folder its SAEs are looked for, and how many are named.
_DEPTH, _NAMED = 5, 12


def load_sae(path: str | os.PathLike[str], sae_id: str | None = None) -> SAE:
    """A published SAE, with its own encode and decode and a model on unit atoms; nothing in its
    files is executed.

    Reads SAELens (`sae_weights.safetensors`), dictionary_learning (`ae.pt`), sparsify
    (`sae.safetensors`) and Gemma Scope (`params.npz`, `params.safetensors`), what `save_sae` wrote,
    and the suite's own fits (`fit.safetensors` under results/models/).

    Args:
      path: the folder of one SAE, or the file of its weights with its configuration beside it; `~`
        is your home. With `sae_id` the release of one in the local cache of the Hugging Face hub,
        which `hub.cached` describes.
      sae_id: which SAE of a release; None for a path.

    Returns:
      The SAE.

    Raises:
      TypeError: `path` is not a path.
      ValueError: there is no SAE, there are several, or it cannot be read; the message names the
        fault and the mend.
    """
    check_path("path", path)
    place = Path(os.path.expanduser(path)) if sae_id is None else hub.cached(str(path), sae_id)
    try:
        weights = _weights(place)
    except OSError as error:
        raise ValueError(
            f"{printable(str(place))} cannot be read ({error.strerror}); check the path of the SAE."
        ) from None
    reader = _reader(weights.name)
    if reader is None:
        raise ValueError(f"{weights} is not the weights of an SAE, {_EXPECTED}.")
    return reader(weights)


def _weights(path: Path) -> Path:
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
            f"{path} has several files of weights, {_listed(path, found)}; give the path of one."
        )
    below = sorted({place.parent for depth in range(1, _DEPTH) for place in _found(path, depth)})
    choices = (
        f"but these below it have: {_listed(path, below)}; give the path of one"
        if below
        else _EXPECTED
    )
    raise ValueError(f"{path} has no weights of an SAE, {choices}.")


def _reader(name: str) -> Callable[[Path], SAE] | None:
    """How a file of this name is read, if it holds weights."""
    return dictionary_learning.load if re.fullmatch(r"ae_\d+\.pt", name) else _READERS.get(name)


def _found(folder: Path, depth: int) -> list[Path]:
    """The files of weights so many folders below one."""
    return sorted(
        place
        for place in folder.glob("*/" * depth + "*")
        if _reader(place.name) and place.is_file()
    )


def _listed(folder: Path, paths: list[Path]) -> str:
    more = " and more" if len(paths) > _NAMED else ""
    return ", ".join(str(path.relative_to(folder)) for path in paths[:_NAMED]) + more
