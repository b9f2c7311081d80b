"""How much of the paper is reproduced: a table, in Markdown, of the published numbers that each study's run lands on.

Reads the published.csv of every study under <results_dir>, which a run with --protocol=paper and the paper's seeds and lengths
leaves there, and prints the table.

  python -m sae_gap agreement --results_dir=results
"""

import contextlib
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks import cli
from benchmarks.report import published
from sae_gap.storage.folder import Folder

FLAGS = flags.FlagValues()
flags.DEFINE_string("results_dir", "results", "Where the folders of the studies are.", flag_values=FLAGS)

_FILE = "published.csv"
_SMALL = 1_000


def read(folder: Folder) -> list[dict[str, Any]]:
    """The comparison that a study has left, as `published.compare` made it."""
    text = folder.read(_FILE).decode()
    return [{name: _value(cell) for name, cell in line.items()} for line in csv.DictReader(io.StringIO(text, newline=""))]


def _value(text: str) -> Any:
    if text in ("True", "False", ""):
        return {"True": True, "False": False}.get(text)
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def line(study: str, comparison: Sequence[Mapping[str, Any]]) -> str:
    """The line of a study: how many of its numbers are close, also at 1,000 latents at most, and the one that is furthest."""
    small = [row["close"] for row in comparison if row["num_latents"] <= _SMALL]
    close, worst = sum(row["close"] for row in comparison), max(comparison, key=published.distance)
    cells = [
        *(study, f"{len(comparison):,}", f"{close:,}", f"{close / len(comparison):.1%}", f"{sum(small):,} of {len(small):,}"),
        f"{published.place(worst)}: {published.numbers(worst)}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    folder = cli.folder(FLAGS.results_dir)
    studies = [name for name in (published.HEADLINE, *published.STUDIES) if (folder / name).exists(_FILE)]
    if not studies:
        raise cli.UsageError(f"no study under {folder} was held against the paper; run one with --protocol=paper.")
    table = [
        f"| study | compared | close | share | up to {_SMALL:,} latents | furthest (ours, published) |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name in studies:
        try:
            table.append(line(name, read(folder / name)))
        except (KeyError, TypeError, ValueError):
            path = f"{folder / name}/{_FILE}"
            raise cli.UsageError(f"{path} is not a comparison with the published numbers; run its study again.") from None
    sys.stdout.write("\n".join(table) + "\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)
