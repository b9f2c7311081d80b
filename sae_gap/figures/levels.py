"""Where in a world recovery fails: by the level of a feature in its tree, and by how often it fires."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_gap.figures import labels, style, tables

# Groups of features, in the order in which they are drawn.
_LEVELS = ("roots", "children", "grandchildren", "great_grandchildren", "level_4", "level_5", "level_6", "free")
_QUARTILES = ("frequent", "common", "uncommon", "rare")
_PANELS = {"level of the feature in its tree": _LEVELS, "frequency of the feature, by quartile": _QUARTILES}


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
    first = {(row["dictionary"], row.get("seed")): row for row in reversed(rows) if row.get("dictionary") is not None}
    there = {name for row in rows for name, value in row.items() if value is not None}
    groups = {title: [name for name in every if f"atom_mcc_{name}" in there] for title, every in _PANELS.items()}
    shown = {title: every for title, every in groups.items() if every}
    metrics = [f"atom_mcc_{name}" for every in shown.values() for name in every]
    lines = tables.summarise([*first.values()][::-1], by=("dictionary",), metrics=metrics)
    lines = [line for line in lines if any(line[f"{metric}_mean"] is not None for metric in metrics)]
    lines.sort(key=lambda line: labels.rank(line["dictionary"]))
    if not lines:
        return None
    figure = Figure(figsize=(style.WIDTH, 4.2))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    for axes, (title, every) in zip(panels, shown.items(), strict=True):
        _panel(axes, lines, every)
        axes.set_title(title, loc="left")
    panels[0].set(ylim=(0, 1.03), ylabel=style.axis_label("atom_mcc"))
    told = [f"{labels.label(line['dictionary'])}: {_in_words(line, every)}" for every in shown.values() for line in lines]
    handles = [Line2D([], [], label=labels.label(line["dictionary"]), **_look(place, line)) for place, line in enumerate(lines)]
    finding = _finding(lines, next(iter(shown.values())))
    style.finish(figure, finding, rows, *told, deviation="whiskers", handles=handles)
    return figure


def _panel(axes: Axes, lines: Sequence[Mapping[str, Any]], every: Sequence[str]) -> None:
    for place, line in enumerate(lines):
        known = _means(line, every)
        x = [every.index(name) for name in known]
        sd = [line[f"atom_mcc_{name}_sd"] or 0.0 for name in known]
        axes.errorbar(x, [*known.values()], sd, elinewidth=0.8, zorder=3, **_look(place, line))
    axes.set_xticks(range(len(every)), [_in_lines(_said(name)) for name in every])
    axes.set_xlim(-0.3, len(every) - 0.7)


def _means(line: Mapping[str, Any], every: Sequence[str]) -> dict[str, float]:
    """The scores of those groups that a dictionary has one of."""
    found = {name: line[f"atom_mcc_{name}_mean"] for name in every}
    return {name: mean for name, mean in found.items() if mean is not None}


def _look(place: int, line: Mapping[str, Any]) -> dict[str, Any]:
    colour = labels.colour(line["dictionary"])
    return {"color": colour, "marker": style.MARKERS[place % len(style.MARKERS)], "markersize": 4, "linewidth": 1.2}


def _finding(lines: Sequence[Mapping[str, Any]], every: Sequence[str]) -> str:
    scored = [line for line in lines if _means(line, every)]
    rivals = [line for line in scored if line["dictionary"] not in ("oracle", "random")] or scored
    best = max(rivals, key=lambda line: np.mean([*_means(line, every).values()]))
    known, name = _means(best, every), labels.label(best["dictionary"])
    worst, most = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    low, high = style.number(known[worst]), style.number(known[most])
    if low == high:
        what = _noun(worst) if len(known) == 1 else f"features of every {'frequency' if worst in _QUARTILES else 'level'}"
        return f"{name} recovers {what} to a cosine of {low}"
    return f"{name} recovers {_noun(most)} to a cosine of {high} and {_noun(worst)} to {low}"


def _noun(name: str) -> str:
    return f"{_said(name)} features" if name in ("free", *_QUARTILES) else _said(name)


def _in_words(line: Mapping[str, Any], every: Sequence[str]) -> str:
    return ", ".join(f"{_said(name)} {style.number(line[f'atom_mcc_{name}_mean'])}" for name in every)


def _in_lines(label: str) -> str:
    """A label broken where its neighbours would touch it."""
    return label.replace(" ", "\n").replace("great-", "great-\n").replace("grandchildren", "grand-\nchildren")


def _said(name: str) -> str:
    return name.replace("great_", "great-").replace("_", " ")
