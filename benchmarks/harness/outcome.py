"""The outputs of a study's run beside its rows: summary.csv, the figures and the page, made from
rows alone.
"""

import collections
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import studies
from benchmarks.harness import Run
from benchmarks.report import pages
from sae_gap import catalogue
from sae_gap.analysis import Lines, published, shares, splits, table_of, tables
from sae_gap.figures import labels
from sae_gap.storage import CELL, Row, grouped

_ANSWER = (
    "Is it the encoder or the dictionary? Distance of each SAE to the oracle in MCC OOD (number of "
    "seeds: {}; the SAEs have the paper's untuned options):\n"
)
# Scores whose distance to the oracle is split.
_SCORES = [
    f"{stem}_{split}"
    for stem in ("mcc", "support_f1", "accuracy", "auc")
    for split in ("id", "ood")
]
# A run is comparable with the paper's numbers only if these are as in the paper.
_AS_PUBLISHED = (
    "lam seeds epochs rounds blocks input_dim noise_db width stream world world_file"
)


def write_outcome(run: Run, rows: Lines, notes: Mapping[str, str]) -> str:
    """Writes summary.csv, the figures and the page, and returns the text to print: the tables, the
    answer and the path of the page.

    Args:
      run: the run.
      rows: its rows.
      notes: its time, memory and the like, by name.
    """
    bench = run.bench
    folder = run.page
    conditions = _conditions(rows, bench.varies)
    if "width" in conditions:
        rows = [{"width": row["num_latents"]} | row for row in rows]
    by = tuple(dict.fromkeys((*tables.BY, *bench.varies, *conditions)))
    summary = tables.summarise(rows, by=by, methods=run.names)
    rows = _told_apart(
        rows,
        {method.name for method in bench.methods(run.study.sources[0], run.preset)},
    )
    varied = [
        name
        for name in by
        if name == "method" or len({line[name] for line in summary}) > 1
    ]
    heads = {name: labels.heading(name) for name in varied}
    shown = []
    for title, words in {**bench.tables, "Further metrics": _unlisted(summary)}.items():
        if names := words.split():
            lines = summary if "encode_seconds" in names else _distinct(run, summary)
            shown.append(pages.Table(title, heads | _headings(names, summary), lines))
    parts = splits(rows, _SCORES) if bench.parts else []
    parts.sort(
        key=lambda line: (_SCORES.index(line["loss"]), run.names.index(line["method"]))
    )
    recovered = [line for line in parts if line["loss"] == "mcc_ood"]
    if recovered:
        title = (
            "1 - MCC OOD of each SAE and its parts ± half their 95 % intervals over "
            f"{recovered[0]['units']} seeds"
        )
        shown.append(table_of(recovered, title, " ".join([*varied, "atoms_found"])))
    measured = [*bench.measured(run.preset)]
    if measured:
        title = (
            "Nats of a language model, means over seeds ± half their 95 % intervals over "
            f"{measured[0]['units']} documents"
        )
        shown.append(table_of(measured, title, "dictionary steps"))
    comparison = published.compare(summary, bench.name) if is_comparable(run) else []
    if comparison:
        shown.append(published.table(comparison))
    answer = _answer(recovered)
    # Drop the command lines of the docstring, which are indented.
    about = re.sub("^  .*\n?", "", bench.about, flags=re.MULTILINE).strip()
    page = pages.Page(bench.title, about, run.command, answer, (), shown, notes)
    pages.publish(
        folder,
        page,
        rows[-1],
        _drawn(run, [*rows, *measured], conditions),
        {
            "summary": summary,
            "decomposition": parts,
            "published": comparison,
            "nats": measured,
        },
    )
    texts = *map(str, shown), answer, f"The page: {folder}/report.html"
    return "\n\n".join(filter(None, texts))


def _distinct(run: Run, summary: Lines) -> list[Row]:
    """The lines without refined codes where frozen ones are shown too: both are certified optima,
    and differ only in seconds.
    """
    cold = [name for name in run.names if name.startswith("frozen_")]
    alike = {name.replace("frozen_", "refined_") for name in cold}
    certified = run.preset.protocol == "strict"
    return [line for line in summary if not certified or line["method"] not in alike]


def _answer(parts: Lines) -> str:
    """The shares of encoder and dictionary in the distance of each SAE to the oracle, a line each;
    several sizes have no one answer.
    """
    if not parts or len({line["method"] for line in parts}) < len(parts):
        return ""
    said = [_ANSWER.format(parts[0]["units"])]
    for line in parts:
        whole = line["total"] - line["rest"]
        told = [f"{labels.label(line['method'].removeprefix('sae_'))}: {whole:.3f}"]
        if whole > 0:
            told.append(shares(line, "encoder", "dictionary"))
        said.append(f"- {', '.join(told)}")
    return "\n".join(said)


def is_comparable(run: Run) -> bool:
    """True if the paper published this run: its protocol, seeds, weight and lengths of training, on
    its own model.
    """
    quick = run.bench.presets["quick"]
    alike = all(
        getattr(run.preset, name) == getattr(quick, name)
        for name in _AS_PUBLISHED.split()
    )
    return alike and run.preset.protocol == "paper" and not run.options.data


def _conditions(rows: Lines, varies: Sequence[str]) -> list[str]:
    """The columns that tell lines apart, beside the cell and the study's own; for example none for
    noise in a run without any.
    """
    values = {
        name: {row.get(name) for row in rows}
        for name in ("noise_db", "stream", "world", "width")
    }
    found = [name for name in ("noise_db", "stream") if values[name] - {None, False}]
    found += [name for name in ("world", "width") if len(values[name]) > 1]
    if len(grouped(rows, (*CELL, "input_dim"))) > len(grouped(rows, CELL)):
        found.append("input_dim")
    return [name for name in found if name not in varies]


def _told_apart(rows: Lines, listed: Collection[str]) -> list[Row]:
    """The rows; a crossing is renamed learner:encoder if other methods share its dictionary."""
    shared = collections.Counter(
        name for name, _ in grouped(rows, ("dictionary", "method"))
    )
    return [
        row | {"dictionary": f"{row['dictionary']}:{row['inference']}"}
        if shared[row["dictionary"]] > 1 and row["method"] not in listed
        else row
        for row in rows
    ]


def _drawn(
    run: Run, rows: Lines, conditions: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Each figure, one for each of its cells, by the name of its file."""
    for stem, drawing in run.bench.figures.items():
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
    return {
        name: labels.heading(name).removesuffix(
            "" if f"{tables.stem(name)}_ood" in names else " ID"
        )
        for name in names
        if any(line.get(f"{name}_mean", line.get(name)) is not None for line in lines)
    }


def _unlisted(summary: Lines) -> str:
    """Columns that no study's table names, from metrics that a user dropped into their folder."""
    listed = {
        tables.stem(name)
        for study in studies.found().values()
        for words in study.tables.values()
        for name in words.split()
    }
    shown = {
        name
        for metric in catalogue.metrics().values()
        for name, column in metric.columns.items()
        if column.heading != ""
    } - listed
    names = [column.removesuffix("_mean") for column in summary[0]]
    return " ".join(name for name in names if tables.stem(name) in shown)
