"""Which library wrote the files at a path, and the SAE in them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from sae_gap.core.checks import check_path
from sae_gap.saes import dictionary_learning, gemma_scope, own, saelens, sparsify
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
# How far below a folder its SAEs are looked for, and how many are named.
_DEPTH, _NAMED = 4, 12


def load_sae(path: str | os.PathLike[str]) -> SAE:
    """A published SAE, with its own encode and decode and a model on unit atoms; nothing in its files is executed.

    Reads SAELens (`sae_weights.safetensors`), dictionary_learning (`ae.pt`), sparsify (`sae.safetensors`) and Gemma Scope
    (`params.npz`, `params.safetensors`), what `save_sae` wrote, and the suite's own fits (`fit.safetensors` under
    results/models/).

    Args:
      path: the folder of one SAE, or the file of its weights with its configuration beside it; `~` is your home.

    Returns:
      The SAE.

    Raises:
      TypeError: `path` is not a path.
      ValueError: there is no SAE, there are several, or it cannot be read; the message names the fault and the mend.
    """
    check_path("path", path)
    path = Path(path).expanduser()
    try:
        path = _weights(path)
    except OSError as error:
        raise ValueError(f"{printable(str(path))} cannot be read ({error.strerror}); check the path of the SAE.") from None
    reader = _reader(path.name)
    if reader is None:
        raise ValueError(f"{path} is not the weights of an SAE, {_expected()}.")
    return reader(path)


def _weights(path: Path) -> Path:
    """The file of weights at a path, or the one in a folder."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{path} is neither a folder nor a file; check the path of the SAE.")
        return path
    found = sorted(place for place in path.iterdir() if _reader(place.name) and place.is_file())
    if len(found) > 1:
        raise ValueError(f"{path} has several files of weights, {_listed(path, found)}; give the path of one.")
    if not found:
        below = _below(path)
        choices = f"but these below it have: {_listed(path, below)}; give the path of one" if below else _expected()
        raise ValueError(f"{path} has no weights of an SAE, {choices}.")
    return found[0]


def _reader(name: str) -> Callable[[Path], SAE] | None:
    """How a file of this name is read, if it holds weights."""
    return dictionary_learning.load if re.fullmatch(r"ae_\d+\.pt", name) else _READERS.get(name)


def _below(folder: Path) -> list[Path]:
    """The folders below a folder that have weights, as far as they are worth naming."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        if len(Path(place).relative_to(folder).parts) >= _DEPTH:
            folders.clear()
        if any(map(_reader, files)):
            found.append(Path(place))
        if len(found) > _NAMED:
            break
    return found


def _listed(folder: Path, paths: list[Path]) -> str:
    more = " and more" if len(paths) > _NAMED else ""
    return ", ".join(str(path.relative_to(folder)) for path in paths[:_NAMED]) + more


def _expected() -> str:
    return f"which are called {', '.join(_READERS)}"
