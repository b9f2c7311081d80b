"""Texts with a binary label from the package sae-probes: 113 sets, of which 8 have shifted texts.

References:
  Kantamneni et al. (2025), "Are sparse autoencoders useful? A case study in sparse probing", the
  source of the sets.
"""

import csv
import importlib.util
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from sae_gap.probing.concepts import TRAIN, Split

# Texts of a set to read, and to train on, as in sae-probes.
MOST, TRAINED = 1_500, 1_024


class TextSet(NamedTuple):
    """A set of texts with binary labels.

    Attributes:
      name: name of its file.
      texts: the texts, then the shifted ones, if there are any; each once.
      labels: whether each text is of the last class by name, as in sae-probes, (n,).
      shifted: which texts are shifted, (n,).
    """

    name: str
    texts: tuple[str, ...]
    labels: Bool[np.ndarray, " n"]
    shifted: Bool[np.ndarray, " n"]

    def split(self, seed: int) -> Split:
        """Training and test rows with equal classes, and all shifted rows for the test.

        Returns:
          Training rows under "all"; test rows by class under "10" and "00", shifted ones under "11"
          and "01".
        """
        rng = np.random.default_rng(seed)
        usual, test = {}, {}
        for label in (1, 0):
            mine = self.labels == label
            usual[label] = rng.permutation(np.flatnonzero(mine & ~self.shifted))
            test[f"{label}1"] = np.flatnonzero(mine & self.shifted)
        fewest = min(map(len, usual.values()))
        trained = min(TRAINED // 2, round(TRAIN * fewest))
        for label, rows in usual.items():
            test[f"{label}0"] = rows[trained:fewest]
        return Split({"all": np.concatenate([rows[:trained] for rows in usual.values()])}, test)


def read_sets(*, every: bool = False) -> list[TextSet]:
    """Reads the sets that have shifted texts, or every binary set.

    Raises:
      ValueError: the package or `zstandard` is not installed, or a file cannot be read.
    """
    # Importing the package would import PyTorch.
    spec = importlib.util.find_spec("sae_probes")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the package sae_probes is not installed; pip install --no-deps sae-probes."
        )
    data = pathlib.Path(spec.submodule_search_locations[0]) / "data"
    sets = []
    for row in _read(data / "probing_datasets_MASTER.csv.zst"):
        name = pathlib.PurePath(row["Dataset save name"]).stem
        shifted = data / "OOD data" / f"{name}_OOD.csv.zst"
        if row["Data type"] == "Binary Classification" and (every or shifted.exists()):
            file = data / "cleaned_data" / f"{name}.csv.zst"
            sets.append(_read_set(name, [file, shifted] if shifted.exists() else [file]))
    return sets


def _read_set(name: str, files: Sequence[pathlib.Path]) -> TextSet:
    """The first texts of a file and, if there is a second, all of its shifted texts."""
    found: list[tuple[str, bool, bool]] = []
    for path in files:
        rows, moved = _read(path), path is not files[0]
        last = max(row["target"] for row in rows)
        # A repeated text would both train and test.
        firsts: dict[str, bool] = {}
        for row in rows if moved else rows[:MOST]:
            firsts.setdefault(row["prompt"], row["target"] == last)
        found += [(text, label, moved) for text, label in firsts.items()]
    texts, labels, shifted = zip(*found, strict=True)
    return TextSet(name, texts, np.array(labels), np.array(shifted))


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            "sets of sae-probes are read by the library zstandard; pip install "
            "'sae_gap[sae_probes]'."
        ) from None
    try:
        with path.open("rb") as file:
            content = zstandard.ZstdDecompressor().stream_reader(file)
            rows = list(csv.DictReader(io.TextIOWrapper(content, "utf-8", newline="")))
            if not rows:
                raise ValueError("it has no texts")
            return rows
    except (OSError, ValueError, csv.Error, zstandard.ZstdError) as error:
        raise ValueError(f"{path} cannot be read ({error}); install sae_probes again.") from error
