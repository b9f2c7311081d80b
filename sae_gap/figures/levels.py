"""Where in a world recovery fails: by the level of a feature in its tree, and by how often it fires."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_gap.figures import labels, style, tables

# Groups of features, in the order in which they are drawn.
_LEVELS = ("roots", "children", "grandchildren", "great_grandchildren", "level_4", "level_5", "level_6", "free")
_QUARTILES = ("frequent", "common", "uncommon", "rare")
_PANELS = {"level of the feature in its tree": _LEVELS, "frequency of the feature, by quartile": _QUARTILES}
_MARKERS = "os^DvPXp<>h*"


@style.styled
def recovery_by_level(rows: style.Rows) -> Figure | None:
    """Matched cosine of the features of each level and of each quartile of frequency, a line a dictionary.

    Args:
      rows: rows of one world; `dictionary` and `atom_mcc_<group>` are read. Methods that infer on one dictionary share it.

    Returns:
      The figure, or None where no row has a group.

    Raises:
      ValueError: the rows mix worlds, sizes or protocols, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    first: dict[tuple[Any, Any], Mapping[str, Any]] = {}
    for row in rows:
        if row.get("dictionary") is not None:
            first.setdefault((row["dictionary"], row.get("seed")), row)
    there = {name for row in rows for name, value in row.items() if value is not None}
    groups = {title: [name for name in every if _column(name) in there] for title, every in _PANELS.items()}
    metrics = [_column(name) for every in groups.values() for name in every]
    lines = tables.summarise(first.values(), by=("dictionary",), metrics=metrics)
    lines.sort(key=lambda line: labels.rank(line["dictionary"]))
    lines = [line for line in lines if any(line[f"{metric}_mean"] is not None for metric in metrics)]
    if not lines:
        return None
    figure = Figure(figsize=(style.WIDTH, 4.2))
    shown = {title: every for title, every in groups.items() if every}
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    for axes, (title, every) in zip(panels, shown.items(), strict=True):
        _panel(axes, lines, every)
        axes.set_title(title, loc="left")
    panels[0].set_ylim(0, 1.03)
    panels[0].set_ylabel(style.axis_label("atom_mcc"))
    handles = [Line2D([], [], label=labels.label(line["dictionary"]), **_look(place, line)) for place, line in enumerate(lines)]
    finding = _finding(lines, next(iter(shown.values())))
    told = [f"{labels.label(line['dictionary'])}: {_in_words(line, every)}" for every in shown.values() for line in lines]
    style.finish(figure, finding, rows, *told, deviation="whiskers", handles=handles)
    return figure


def _panel(axes: Axes, lines: Sequence[Mapping[str, Any]], every: Sequence[str]) -> None:
    for place, line in enumerate(lines):
        found = [(x, line[f"{_column(name)}_mean"], line[f"{_column(name)}_sd"] or 0.0) for x, name in enumerate(every)]
        points = [point for point in found if point[1] is not None]
        if points:
            x, y, sd = zip(*points, strict=True)
            axes.errorbar(x, y, sd, elinewidth=0.8, zorder=3, **_look(place, line))
    axes.set_xticks(range(len(every)), [_in_lines(_said(name)) for name in every])
    axes.set_xlim(-0.3, len(every) - 0.7)


def _look(place: int, line: Mapping[str, Any]) -> dict[str, Any]:
    colour = labels.colour(line["dictionary"])
    return {"color": colour, "marker": _MARKERS[place % len(_MARKERS)], "markersize": 4, "linewidth": 1.2}


def _finding(lines: Sequence[Mapping[str, Any]], every: Sequence[str]) -> str:
    def scores(line: Mapping[str, Any]) -> dict[str, float]:
        found = {name: line[f"{_column(name)}_mean"] for name in every}
        return {name: value for name, value in found.items() if value is not None}

    scored = [line for line in lines if scores(line)]
    rivals = [line for line in scored if line["dictionary"] not in ("oracle", "random")] or scored
    best = max(rivals, key=lambda line: sum(scores(line).values()) / len(scores(line)))
    known = scores(best)
    worst, most = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    low, high = style.number(known[worst]), style.number(known[most])
    name = labels.label(best["dictionary"])
    if low == high:
        what = _noun(worst) if len(known) == 1 else f"features of every {'frequency' if worst in _QUARTILES else 'level'}"
        return f"{name} recovers {what} to a cosine of {low}"
    return f"{name} recovers {_noun(most)} to a cosine of {high} and {_noun(worst)} to {low}"


def _noun(name: str) -> str:
    return f"{_said(name)} features" if name in ("free", *_QUARTILES) else _said(name)


def _in_words(line: Mapping[str, Any], every: Sequence[str]) -> str:
    return ", ".join(f"{_said(name)} {style.number(line[f'{_column(name)}_mean'])}" for name in every)


def _column(name: str) -> str:
    return f"atom_mcc_{name}"


def _in_lines(label: str) -> str:
    """A label broken where its neighbours would touch it."""
    return label.replace(" ", "\n").replace("great-", "great-\n").replace("grandchildren", "grand-\nchildren")


def _said(name: str) -> str:
    return name.replace("great_", "great-").replace("_", " ")
