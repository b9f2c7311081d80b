"""How much of the paper is reproduced: a table, in Markdown, of the published numbers that each study's run lands on.

Reads the published.csv of every study under <results_dir>, which a run with --protocol=paper and the paper's seeds and lengths
leaves there, and prints the table.

  python -m sae_gap agreement --results_dir=results
"""

import csv
import io
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from benchmarks import cli
from benchmarks.report import published
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import CELL

FLAGS = flags.FlagValues()
flags.DEFINE_string("results_dir", "results", "Where the folders of the studies are.", flag_values=FLAGS)


def read(folder: Folder) -> list[Mapping[str, Any]]:
    """The comparison that a study has left.

    Raises:
      ValueError: a line is not one of a comparison.
    """
    lines = list(csv.DictReader(io.StringIO(folder.read("published.csv").decode(), newline="")))
    try:
        return [{name: _value(name, text) for name, text in line.items()} for line in lines]
    except (TypeError, ValueError):
        raise ValueError(f"{folder}/published.csv is not a comparison with the published numbers; run it again.") from None


def _value(name: str, text: str) -> Any:
    if name in ("close", "relative"):
        if text not in ("True", "False"):
            raise ValueError(f"{name} is {text!r}.")
        return text == "True"
    if text == "":
        return None
    numbers = ("ours", "published", "published_sd", "difference", "tolerance", "lam")
    counts = (*CELL, "iterations", "step")
    return float(text) if name in numbers else int(text) if name in counts else text


def main() -> None:
    folder = cli.folder("results_dir", FLAGS.results_dir)
    names = [name for name in (published.HEADLINE, *published.STUDIES) if (folder / name).exists("published.csv")]
    if not names:
        raise cli.UsageError(f"no study under {folder} was held against the paper; run one with --protocol=paper.")
    try:
        comparisons = {name: read(folder / name) for name in names}
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    sys.stdout.write(published.markdown(published.agreement(comparisons)) + "\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)
