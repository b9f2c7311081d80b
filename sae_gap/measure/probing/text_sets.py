"""Texts with a binary label from the package sae-probes: 113 sets, of which 8 have a second set whose texts are shifted.

References:
  Kantamneni et al. (2025), "Are sparse autoencoders useful? A case study in sparse probing", whose sets they are.
"""

import csv
import importlib.util
import io
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from sae_gap.measure.probing.cells import TRAIN, Split

# The package whose sets are read, and what installs it: of the packages that it asks for none is needed.
PACKAGE, INSTALL = "sae_probes", "pip install --no-deps sae-probes"
# Texts of a set that are looked at, and those that train, as sae-probes has them.
MOST, TRAINED = 1_500, 1_024
_BINARY = "Binary Classification"


class TextSet(NamedTuple):
    """A set.

    Attributes:
      name: of its file.
      texts: of the set, and then the shifted ones, if there are any.
      labels: of each text, (n,): whether it is of the second class in the order of their names, as in sae-probes.
      shifted: which texts are shifted, (n,).
    """

    name: str
    texts: tuple[str, ...]
    labels: Bool[np.ndarray, " n"]
    shifted: Bool[np.ndarray, " n"]

    def split(self, seed: int) -> Split:
        """Training and test rows with as many of each class, and all shifted rows beside.

        Returns:
          Training rows under "all"; test rows by class under "10" and "00", shifted ones under "11" and "01".
        """
        rng, own = np.random.default_rng(seed), {}
        for label in (True, False):
            own[label] = rng.permutation(np.flatnonzero((self.labels == label) & ~self.shifted))
        fewest = min(map(len, own.values()))
        trained = min(TRAINED // 2, round(TRAIN * fewest))
        test = {f"{int(label)}0": rows[trained:fewest] for label, rows in own.items()}
        test |= {f"{int(label)}1": np.flatnonzero((self.labels == label) & self.shifted) for label in own}
        return Split({"all": np.concatenate([rows[:trained] for rows in own.values()])}, test)


def find_sets(*, every: bool = False) -> dict[str, tuple[pathlib.Path, pathlib.Path | None]]:
    """The files of the sets that have a shifted one, or of every binary set, and of the shifted ones, by name.

    Raises:
      ValueError: the package is not installed.
    """
    # The package is found, not imported: it would import PyTorch.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {PACKAGE} is not installed; {INSTALL}.")
    data = pathlib.Path(spec.submodule_search_locations[0]) / "data"
    shifted = {path.name.partition("_OOD.")[0]: path for path in (data / "OOD data").glob("*_OOD.csv.zst")}
    binary = [
        row["Dataset save name"] for row in _read(data / "probing_datasets_MASTER.csv.zst") if row["Data type"] == _BINARY
    ]
    names = [pathlib.PurePath(name).stem for name in binary]
    files = {name: (data / "cleaned_data" / f"{name}.csv.zst", shifted.get(name)) for name in names}
    return {name: pair for name, pair in files.items() if every or pair[1]}


def read_set(name: str, file: pathlib.Path, shifted: pathlib.Path | None) -> TextSet:
    """Reads a set: its first `MOST` texts, and all of the shifted one, each text once, lest it both trains and tests.

    Raises:
      ValueError: a file cannot be read, or `zstandard` is not installed.
    """
    texts: list[str] = []
    labels: list[Bool[np.ndarray, " n"]] = []
    for path, most in ((file, MOST), (shifted, None)):
        rows = [] if path is None else _read(path)
        classes = sorted({row["target"] for row in rows})
        first = {row["prompt"]: row["target"] for row in reversed(rows[:most])}
        found = dict.fromkeys(row["prompt"] for row in rows[:most])
        texts += found
        labels.append(np.array([first[text] == classes[-1] for text in found], bool))
    moved = np.repeat([False, True], [len(each) for each in labels])
    return TextSet(name, tuple(texts), np.concatenate(labels), moved)


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    try:
        import zstandard
    except ImportError:
        raise ValueError("sets of sae-probes are read by the library zstandard; pip install 'sae_gap[sae_probes]'.") from None
    try:
        with path.open("rb") as file:
            text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8", newline="")
            return list(csv.DictReader(text))
    except (OSError, ValueError, csv.Error, zstandard.ZstdError) as error:
        raise ValueError(f"{path} cannot be read ({error}); install {PACKAGE} again.") from error
