"""The paper's published numbers beside ours: their values, their distance from ours, and whether
that is close.
"""

from ast import literal_eval
from csv import DictReader
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from sae_gap.analysis import Lines, Table, tables
from sae_gap.storage import CELL, Row

# Columns in which a line must agree, if the published line has them.
_NUMBERED = (*CELL, "lam", "iterations", "step")
# The method's name mostly implies these, so a summary need not have them.
_IMPLIED = ("base", "start", "input_dim")
_COORDINATES = ("method", *_NUMBERED, "base", "start")

# A difference is close within two published deviations or this much; matching-pursuit training is
# chaotic: the authors' own code, run again on the same data, moves by half of its allowance.
_TOLERANCE = 0.04
# Metrics whose size depends on the setting: within two published deviations or this share of the
# published number.
_RELATIVE = ("mse", "l0_above", "support_l0")
_RELATIVE_TOLERANCE = 0.1
_MP_FACTOR = 2
# The published numbers have five decimals, as many as a squared error of 1e-5 fills.
_ROUNDING = 5e-6


def published(study: str | None = None) -> list[Row]:
    """The published means and standard deviations over seeds, a line a method and setting.

    A line has the columns that tell methods and settings apart, `seeds`, and `<metric>_mean` and
    `<metric>_sd` of each metric; text is a string, a count an int, any other number a float, and an
    unpublished value None.

    Args:
      study: its name; None for all lines of the file.

    Returns:
      The lines, in the order of the file; none if nothing was published for the study.
    """
    lines = read(Path(__file__).with_name("published.csv").read_text())
    return [line for line in lines if study in (None, line["study"])]


@cache
def read(text: str) -> list[Row]:
    """The lines of a CSV file without comments: a cell is a number, a text, or None if empty."""
    lines = DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [{name: _value(cell) for name, cell in line.items()} for line in lines]


def _value(cell: str) -> Any:
    try:
        return literal_eval(cell)
    except (ValueError, SyntaxError):
        return cell or None


def compare(summary: Lines, study: str) -> list[Row]:
    """Compares a summary of the protocol "paper" with the published numbers.

    A line is compared with a published one of the same method if num_latents, sparsity,
    num_samples, lam, iterations and step agree wherever the published line has them, and base,
    start and input_dim wherever both have them. The paper drew a dictionary learned from nothing
    anew beside each encoder (cold_dl_relu, …): a single `cold_dl` is compared with each of them. A
    difference is close up to

      max(2 sd, 0.04), or max(2 sd, 0.08) for what matching pursuit learned, for metrics of order
      one; max(2 sd, 0.1 |published|) + 5e-6, twice that share for matching pursuit, for mse,
      l0_above and support_l0 (`relative`).

    It leaves out the late rounds of DL-FISTA in learning_dynamics, which average only the seeds
    that had not yet converged.

    Args:
      summary: lines of `tables.summarise`.
      study: as for `published`.

    Returns:
      A row for each line and metric that both have: the published coordinates, `metric`, `ours`,
      `published`, `published_sd`, `difference` (ours - published), `tolerance`, `relative` and
      `close`.
    """
    lines = published(study)
    coordinates = [
        name
        for name in _COORDINATES
        if any(line.get(name) is not None for line in lines)
    ]
    found = []
    for line, ours in product(lines, summary):
        if not _agrees(ours, line):
            continue
        place = {name: line[name] for name in coordinates}
        for name in line:
            if name.endswith("_mean") and None not in (line[name], ours.get(name)):
                metric = name.removesuffix("_mean")
                found.append(place | _compared(ours, line, metric))
    return found


def _agrees(ours: Row, line: Row) -> bool:
    cold = line["study"] == "warmstart_decoder" and line["start"] == "cold"
    method = ours["method"] == line["method"] or (cold and ours["method"] == "cold_dl")
    late = line["study"] == "learning_dynamics" and line["seeds"] < 3
    numbered = all(line[name] in (None, ours.get(name)) for name in _NUMBERED)
    implied = all(
        line[name] is None or ours.get(name) in (None, line[name]) for name in _IMPLIED
    )
    return method and numbered and implied and not late


def _compared(ours: Row, line: Row, metric: str) -> Row:
    mean = line[f"{metric}_mean"]
    sd = line[f"{metric}_sd"]
    difference = ours[f"{metric}_mean"] - mean
    factor = _MP_FACTOR if "mp" in (line["dictionary"], line["base"]) else 1
    relative = tables.stem(metric) in _RELATIVE
    least = factor * (_RELATIVE_TOLERANCE * abs(mean) if relative else _TOLERANCE)
    tolerance = max(2 * (sd or 0.0), least) + _ROUNDING * relative
    return {
        "metric": metric,
        "ours": ours[f"{metric}_mean"],
        "published": mean,
        "published_sd": sd,
        "difference": difference,
        "tolerance": tolerance,
        "relative": relative,
        "close": abs(difference) <= tolerance,
    }


def table(comparison: Lines) -> Table:
    """The numbers that are not close, the furthest in units of its tolerance first.

    Args:
      comparison: what `compare` returned.
    """
    far = sorted(
        (row for row in comparison if not row["close"]), key=distance, reverse=True
    )
    close = len(comparison) - len(far)
    names = (*_COORDINATES, "metric", "ours", "published", "difference", "tolerance")
    title = f"Published numbers: {close:,} of {len(comparison):,} are within their tolerance"
    title += "; the others, the furthest first" if far else "."
    return tables.table(title, " ".join(names), far)


def agreement(place: str, comparison: Lines) -> str:
    """A line of Markdown on a comparison: its numbers, those that are close, and the furthest."""
    close = sum(row["close"] for row in comparison)
    count = len(comparison)
    row = max(comparison, key=distance)
    where = [f"{row['method']} at {row['num_latents']:,} latents"]
    # What tells the lines of one method apart beside its latents.
    varied = [name for name in _NUMBERED[2:] if row.get(name) is not None]
    where += [f"{name} {row[name]:,}" for name in varied]
    where.append(row["metric"])
    form = ".3g" if row["relative"] else ".3f"
    furthest = (
        f"{', '.join(where)}: {row['ours']:{form}}, published {row['published']:{form}}"
    )
    if row["published_sd"] is not None:
        furthest += f" ± {row['published_sd']:{form}}"
    return f"| {place} | {count:,} | {close:,} | {close / count:.1%} | {furthest} |"


def distance(row: Row) -> float:
    """The distance of a number from the published one, in units of its tolerance."""
    return abs(row["difference"]) / row["tolerance"]
