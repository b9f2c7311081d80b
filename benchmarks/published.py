"""The paper's published numbers beside ours: what they were, how far ours are from them, and whether that is close."""

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from sae_gap import results, tables

_FILE = pathlib.Path(__file__).with_name("published.csv")
# A difference is close within two published deviations or this much; matching-pursuit training is chaotic, so that the authors'
# own code, run again on the same data, moves by half of its allowance.
_TOLERANCE = 0.04
_TOLERANCE_MP = 0.08
# The metrics of order one, where an absolute tolerance means something.
_COMPARED = (
    "mcc_paper",
    "accuracy",
    "auc",
    "cosine",
    "close",
    "angle",
    "norm_ratio",
    "support_precision",
    "support_recall",
    "support_f1",
)


def published() -> list[dict[str, str]]:
    """The published means and standard deviations: a row a method, setting and metric."""
    with _FILE.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def compare(summary: Sequence[Mapping[str, object]]) -> list[results.Row]:
    """Holds a summary of the protocol "paper" against the published numbers.

    Args:
      summary: lines of `tables.summarise`.

    Returns:
      A row a method and metric that both have: `ours`, `published`, `published_sd`, `difference`, `tolerance` and `close`.
    """
    return list(_compare(summary))


def _compare(summary: Sequence[Mapping[str, object]]) -> Iterator[results.Row]:
    lines = {tuple(str(line[name]) for name in tables.BY): line for line in summary}
    for row in published():
        line = lines.get(tuple(row[name] for name in tables.BY))
        stem = row["metric"].removesuffix("_id").removesuffix("_ood")
        ours = None if line is None else line.get(f"{row['metric']}_mean")
        if stem not in _COMPARED or not isinstance(ours, float):
            continue
        mean, sd = float(row["mean"]), float(row["sd"])
        tolerance = max(2 * sd, _TOLERANCE_MP if row["method"].endswith("_mp") else _TOLERANCE)
        yield {name: row[name] for name in (*tables.BY, "metric")} | {
            "ours": ours,
            "published": mean,
            "published_sd": sd,
            "difference": ours - mean,
            "tolerance": tolerance,
            "close": abs(ours - mean) <= tolerance,
        }


def describe(comparison: Sequence[Mapping[str, object]]) -> str:
    """How many of the numbers are close, and each that is not."""
    far = [row for row in comparison if not row["close"]]
    lines = [f"Against the published numbers: {len(comparison) - len(far)} of {len(comparison)} are close."]
    lines += [
        f"  {row['method']} at {row['num_latents']} latents, {row['metric']}: {row['ours']:.3f}, "
        f"published {row['published']:.3f} "
        f"± {row['published_sd']:.3f}, tolerance {row['tolerance']:.3f}"
        for row in far
    ]
    return "\n".join(lines)
