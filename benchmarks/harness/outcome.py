"""The outputs of a study's run beside its rows: summary.csv, the figures and the page, made from
rows alone.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import studies
from benchmarks.harness.bench import Bench
from benchmarks.harness.command import Run
from benchmarks.harness.preset import HEADINGS
from benchmarks.report import pages
from sae_gap import catalogue
from sae_gap.analysis import Lines, published, shares, splits, table_of, tables
from sae_gap.figures import labels
from sae_gap.storage import CELL, Row, grouped

_ANSWER = "Is it the encoder or the dictionary? Distance of each SAE to the oracle in MCC OOD"
# Scores whose distance to the oracle is split.
_SCORES = [
    f"{stem}_{split}"
    for stem in ("mcc", "support_f1", "accuracy", "auc")
    for split in ("id", "ood")
]
# Scores of codes of one optimum differ by no more.
_ALIKE = 1e-3
# A run is comparable with the paper's numbers only if these are as in the paper.
_AS_PUBLISHED = (
    *("lam", "seeds", "epochs", "rounds", "blocks"),
    *("input_dim", "noise_db", "width", "stream", "world", "world_file"),
)


def write_outcome(run: Run, rows: Lines, notes: Mapping[str, str]) -> str:
    """Writes summary.csv, the figures and the page, and returns the text to print: the tables, the
    answer and the path of the page.

    Args:
      run: the run.
      rows: its rows.
      notes: its time, memory and the like, by name.
    """
    bench, folder = run.bench, run.page
    conditions = _conditions(rows, bench.varies)
    if "width" in conditions:
        rows = [{"width": row["num_latents"]} | row for row in rows]
    by = tuple(dict.fromkeys((*tables.BY, *bench.varies, *conditions)))
    summary = tables.summarise(rows, by=by, methods=run.names)
    rows = _told_apart(
        rows, {method.name for method in bench.methods(run.study.sources[0], run.preset)}
    )
    drawn = _drawn(bench, rows, conditions)
    varied = [name for name in by if name == "method" or len({line[name] for line in summary}) > 1]
    heads = {name: HEADINGS.get(name, name.replace("_", " ")) for name in varied}
    listed = {title: names.split() for title, names in bench.tables.items()}
    listed["Further metrics"] = _unlisted(summary)
    shown = [
        pages.Table(title, heads | _headings(names, summary), _distinct(summary, names, by))
        for title, names in listed.items()
        if names
    ]
    parts = splits(rows, _SCORES) if bench.parts else []
    parts.sort(key=lambda line: (_SCORES.index(line["loss"]), run.names.index(line["method"])))
    recovered = [line for line in parts if line["loss"] == "mcc_ood"]
    if recovered:
        over = f"{recovered[0]['units']} seeds"
        title = f"1 - MCC OOD of each SAE and its parts ± half their 95 % intervals over {over}"
        shown.append(table_of(recovered, title, " ".join(varied)))
    known = is_comparable(run) and published.published(bench.name)
    comparison = published.compare(summary, bench.name) if known else []
    if comparison:
        shown.append(published.table(comparison))
    # Drop the command lines of the docstring, which are indented.
    about = "\n".join(
        line for line in bench.about.splitlines() if not line.startswith("  ")
    ).strip()
    answer = _answer(recovered, bench.note)
    pages.publish(
        folder,
        pages.Page(bench.title, about, run.command, answer, (), shown, notes),
        rows[-1],
        drawn,
        {"summary": summary, "decomposition": parts, "published": comparison},
    )
    return "\n\n".join(
        [*map(str, shown), *filter(None, [answer]), f"The page: {folder}/report.html"]
    )


def _distinct(summary: Lines, names: Sequence[str], by: Sequence[str]) -> list[Row]:
    """The lines but those of refined codes that score as codes found from nothing; they differ from
    these in seconds.
    """
    if "encode_seconds" in names:
        return [*summary]

    def place(line: Row) -> tuple:
        return (line["method"].replace("refined_", "frozen_"), *(line[name] for name in by[1:]))

    def scores(line: Row) -> list[float]:
        return [line.get(f"{name}_mean") or 0.0 for name in names]

    frozen = {place(line): scores(line) for line in summary if "frozen_" in line["method"]}
    return [
        line
        for line in summary
        if "refined_" not in line["method"]
        or not np.allclose(scores(line), frozen.get(place(line), np.nan), atol=_ALIKE)
    ]


def _answer(parts: Lines, note: str = "") -> str:
    """The shares of encoder and dictionary in the distance of each SAE to the oracle, a line each;
    several sizes have no one answer.
    """
    if not parts or len({line["method"] for line in parts}) < len(parts):
        return ""
    said = [f"{_ANSWER} (number of seeds: {parts[0]['units']}{note}):\n"]
    for line in parts:
        whole = line["total"] - line["rest"]
        told = [f"{labels.label(line['method'].removeprefix('sae_'))}: {whole:.3f}"]
        told += [shares(line, "encoder", "dictionary")] if whole > 0 else []
        said.append(f"- {', '.join(told)}")
    return "\n".join(said)


def is_comparable(run: Run) -> bool:
    """True if the paper published this run: its protocol, seeds, weight and lengths of training, on
    its own model.
    """
    quick = run.bench.presets["quick"]
    alike = all(getattr(run.preset, name) == getattr(quick, name) for name in _AS_PUBLISHED)
    return alike and run.preset.protocol == "paper" and not run.options.data


def _conditions(rows: Lines, varies: Sequence[str]) -> list[str]:
    """The columns that tell lines apart, beside the cell and the study's own; for example none for
    noise in a run without any.
    """
    found = [
        name
        for name in ("noise_db", "stream")
        if any(row.get(name) not in (None, False) for row in rows)
    ]
    found += [name for name in ("world", "width") if len({row.get(name) for row in rows}) > 1]
    sizes = {(*(row[name] for name in CELL), row["input_dim"]) for row in rows}
    if len(sizes) > len({cell[:-1] for cell in sizes}):
        found.append("input_dim")
    return [name for name in found if name not in varies]


def _told_apart(rows: Lines, listed: set[str]) -> list[Row]:
    """The rows; a crossing is renamed learner:encoder if other methods share its dictionary."""
    shared = collections.Counter(
        dictionary for dictionary, _ in {(row["dictionary"], row["method"]) for row in rows}
    )

    def name(row: Row) -> str:
        crossed = shared[row["dictionary"]] > 1 and row["method"] not in listed
        return f"{row['dictionary']}:{row['inference']}" if crossed else row["dictionary"]

    return [row | {"dictionary": name(row)} for row in rows]


def _drawn(
    bench: Bench,
    rows: Lines,
    conditions: Sequence[str],
) -> Iterator[tuple[str, Any]]:
    """Each figure, one for each of its cells, by the name of its file."""
    for stem, drawing in bench.figures.items():
        groups = grouped(rows, dict.fromkeys((*drawing.cells, *conditions)))
        for cell, group in groups.items():
            named = [
                value if isinstance(value, str) else f"{value:g}"
                for value in cell
                if value is not None and len(groups) > 1
            ]
            yield "_".join([stem, *named]), drawing.draw(group)


def _headings(names: Sequence[str], lines: Lines) -> dict[str, str]:
    """The headings of metrics that some line has; "ID" appears only if the table also has the other
    split.
    """
    present = [
        name
        for name in names
        if any(line.get(f"{name}_mean", line.get(name)) is not None for line in lines)
    ]
    alone = {name for name in present if name.removesuffix("_id") + "_ood" not in names}
    return {
        name: labels.heading(name).removesuffix(" ID" if name in alone else "") for name in present
    }


def _unlisted(summary: Lines) -> list[str]:
    """Columns that no study's table names, from metrics that a user dropped into their folder."""
    listed = {
        _stem(name)
        for one in studies.found().values()
        for names in one.tables.values()
        for name in names.split()
    }
    columns = [item for metric in catalogue.metrics().values() for item in metric.columns.items()]
    shown = {name for name, column in columns if column.heading != "" and name not in listed}
    return [
        name
        for name in (column.removesuffix("_mean") for column in summary[0])
        if _stem(name) in shown
    ]


def _stem(name: str) -> str:
    return name.removesuffix("_id").removesuffix("_ood")
