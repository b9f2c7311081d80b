"""Tables of rows: means and deviations over seeds, as CSV files, for a page and for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from csv import DictWriter
from io import StringIO
from math import fsum, isfinite
from os import PathLike
from statistics import stdev
from typing import Any, NamedTuple, TypeAlias

from sae_gap.storage import CELL, SIZES, Folder, Row, grouped

Rows: TypeAlias = Iterable[Row]
Lines: TypeAlias = Sequence[Row]
# These columns, and those that vary among its rows, identify a line of a summary.
BY = ("method", *CELL)

# Rows that differ in one of these are different experiments: a mean over them would look like a
# mean over seeds.
_CONDITIONS = ("study", "protocol", "data", "world", "scored", "lam", "stream", *SIZES)
# The first job of a shape pays for the compilation of all its seeds, so its mean over seeds means
# nothing.
_NOT_METRICS = {*_CONDITIONS, "key", "job", "seed", "compile_seconds"}
_NOT_METRICS |= {"padded_dim", "depth", "iterations", "step", "flops"}
# Words of column names that headings write otherwise than in capitals, and those in capitals.
_TERMS = {"lam": "λ", "level": "asked L0"}
_TERMS |= {word: word.upper() for word in ("ood", "id", "l0", "fvu", "kl", "ce", "auc")}


def summarise(
    rows: Rows,
    by: Sequence[str] = BY,
    *,
    methods: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
) -> list[Row]:
    """Returns means and sample standard deviations over seeds.

    A mean is None unless every seed of its group has a finite value, since the mean over the
    surviving seeds would flatter a method that failed on the others. The deviation of a single seed
    is None: it is unknown, and 0 would claim certainty.

    Args:
      rows: rows of results.
      by: the columns whose values make a group.
      methods: the order of methods; any others follow in their order of appearance.
      metrics: the columns to summarise, in order; None takes every numeric column of results.

    Returns:
      A dictionary per group with the columns of `by`, `seeds` (how many), `<metric>_mean` and
      `<metric>_sd` of each metric, in the order of methods and, within one, by the other columns.

    Raises:
      ValueError: a group mixes conditions or holds a seed twice, so that its spread would not be a
        spread over seeds.
    """
    rows = list(rows)
    groups = grouped(rows, by)
    for group in groups.values():
        _check_seeds(group, by)
    if metrics is None:
        left_out = {*by, *_NOT_METRICS}
        names = dict.fromkeys(
            name
            for row in rows
            for name, value in row.items()
            if name not in left_out and is_finite(value)
        )
        # Seconds come last.
        metrics = sorted(names, key=lambda name: name.endswith("_seconds"))
    seen = [row["method"] for row in rows if "method" in row]
    rank = {
        method: place for place, method in enumerate(dict.fromkeys([*methods, *seen]))
    }

    def order(values: tuple[Any, ...]) -> list[Any]:
        named = dict(zip(by, values, strict=True))
        rest = [
            (value is None, value) for name, value in named.items() if name != "method"
        ]
        return [rank.get(named.get("method"), 0), *rest]

    summary = []
    for values in sorted(groups, key=order):
        group = groups[values]
        line: Row = dict(zip(by, values, strict=True)) | {"seeds": len(group)}
        for metric in metrics:
            found = [float(row[metric]) for row in group if is_finite(row.get(metric))]
            mean = sd = None
            if len(found) == len(group):
                mean = fsum(value / len(found) for value in found)
                sd = stdev(found) if len(found) > 1 else None
            line |= {f"{metric}_mean": mean, f"{metric}_sd": sd}
        summary.append(line)
    return summary


def _check_seeds(group: Lines, by: Sequence[str]) -> None:
    name = ", ".join(f"{column}={group[0].get(column)}" for column in by)
    for column in _CONDITIONS:
        one, *others = dict.fromkeys(row.get(column) for row in group)
        if others and column not in by:
            raise ValueError(
                f"rows of {name} mix {column} {one} and {others[0]}; choose one, or group by "
                f"{column} too."
            )
    seeds = [row.get("seed") for row in group]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"rows of {name} hold a seed twice; choose the rows of one run, or group by what tells "
            "them apart."
        )


def stem(metric: str) -> str:
    """The name of a metric without the split that it is of."""
    return metric.removesuffix("_id").removesuffix("_ood")


def is_number(value: Any) -> bool:
    """True for a number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """True for a number that is neither infinite nor NaN."""
    return is_number(value) and isfinite(value)


def write_table(
    folder: str | PathLike[str] | Folder,
    name: str,
    lines: Lines,
) -> None:
    """Writes lines as CSV, at full precision. None and missing columns give empty cells; columns of
    lists and of mappings are left out.

    Args:
      folder: the folder to write to.
      name: the name of the file, which is replaced whole.
      lines: at least one line.

    Raises:
      OSError: the folder cannot be written to.
    """
    listed = {
        name for line in lines for name in line if isinstance(line[name], list | dict)
    }
    columns = dict.fromkeys(
        name for line in lines for name in line if name not in listed
    )
    text = StringIO()
    writer = DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    Folder(folder).write(name, text.getvalue().encode())


def grid(
    lines: Lines, columns: Mapping[str, str]
) -> tuple[list[str], list[bool], list[list[str]]]:
    """Returns the cells of a table: `mean ± sd` of a metric, the value of any other column, a dash
    for a missing one.

    Args:
      lines: lines of `summarise`.
      columns: the headings of metrics and other columns of the lines, in order.

    Returns:
      The headings, whether each column has numbers, and the cells of each line.

    Raises:
      ValueError: no line has one of the columns.
    """
    numeric, cells = zip(*(_column(lines, name) for name in columns), strict=True)
    return [*columns.values()], [*numeric], [[*row] for row in zip(*cells, strict=True)]


def _column(lines: Lines, name: str) -> tuple[bool, list[str]]:
    """Returns whether a column has numbers, and its cells."""
    mean = f"{name}_mean"
    sd = f"{name}_sd"
    if lines and not any(mean in line or name in line for line in lines):
        raise ValueError(
            f"no line has a column {name!r}; the first has {', '.join(lines[0])}."
        )
    if any(mean in line for line in lines):
        largest = max(
            (abs(line[mean]) for line in lines if is_finite(line.get(mean))),
            default=0.0,
        )
        return True, [
            _mean(line.get(mean), line.get(sd), _decimals(largest)) for line in lines
        ]
    values = [line.get(name) for line in lines]
    numeric = all(value is None or is_number(value) for value in values)
    return numeric, ["-" if value is None else _value(value) for value in values]


def _decimals(size: float) -> int:
    if size < 10:
        return 3
    return 1 if size < 1_000 else 0


def _mean(mean: float | None, sd: float | None, decimals: int) -> str:
    if mean is None or not isfinite(mean):
        return "-"
    size = abs(mean)
    if 0 < size < 10 ** (1 - decimals):
        # Small numbers would lose all digits at the decimals of the column's largest.
        decimals = _decimals(size)
    form = ".1e" if 0 < size < 0.01 or size >= 1e12 else f",.{decimals}f"
    return f"{mean:{form}}" if sd is None else f"{mean:{form}} ± {sd:{form}}"


def _value(value: Any) -> str:
    if not is_number(value):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def format_table(lines: Lines, columns: Mapping[str, str], width: int = 120) -> str:
    """Lays out a table for a terminal; one that is too wide goes on below, with its leading columns
    of names and sizes repeated.

    Args:
      lines: lines of `summarise`.
      columns: as for `grid`.
      width: characters in a line of the terminal.

    Returns:
      The table, without a newline at its end.

    Raises:
      ValueError: no line has one of the columns.
    """
    headings, numeric, rows = grid(lines, columns)
    laid = []
    for heading, right, *cells in zip(headings, numeric, *rows, strict=True):
        size = max(map(len, (heading, *cells)))
        form = f"{'>' if right else '<'}{size}"
        laid.append([f"{cell:{form}}" for cell in (heading, "-" * size, *cells)])
    means = [any(f"{name}_mean" in line for line in lines) for name in columns]
    leading = means.index(True) if True in means else 0
    blocks = [laid[:leading]]
    for column in laid[leading:]:
        used = sum(len(other[0]) + 2 for other in blocks[-1])
        if len(blocks[-1]) > leading and used + len(column[0]) > width:
            blocks.append(laid[:leading])
        blocks[-1] = [*blocks[-1], column]
    return "\n\n".join(
        "\n".join("  ".join(line).rstrip() for line in zip(*block, strict=True))
        for block in blocks
    )


class Table(NamedTuple):
    """Lines of a summary.

    Attributes:
      title: title of the lines.
      columns: the headings of metrics and of columns of the lines, in order.
      lines: lines of `tables.summarise`; without any, only the title is shown.
    """

    title: str
    columns: Mapping[str, str]
    lines: Lines

    def __str__(self) -> str:
        """The table for a terminal."""
        if not self.lines:
            return self.title
        return f"{self.title}\n{format_table(self.lines, self.columns)}"


def heading(name: str) -> str:
    """The name of a column, as written in headings."""
    words = [_TERMS.get(word, word) for word in name.split("_")]
    return " ".join(words).replace("delta CE", "ΔCE")


def table(title: str, names: str, lines: Lines) -> Table:
    """A table of the named columns that some line has; columns of non-integers are written as
    means, with their `<name>_half` as deviation.
    """
    kept = [
        name
        for name in names.split()
        if any(line.get(name) is not None for line in lines)
    ]
    real = {
        name
        for name in kept
        if any(isinstance(line.get(name), float) for line in lines)
    }
    headings = {name: heading(name) for name in kept}
    keys = {name: f"{name}_mean" if name in real else name for name in kept}
    keys |= {f"{name}_half": f"{name}_sd" for name in real}
    shown = [{key: line.get(name) for name, key in keys.items()} for line in lines]
    return Table(title, headings, shown)
