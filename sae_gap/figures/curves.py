"""A metric along whatever a study varies: a line a dictionary, a panel a size."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels
from sae_gap.figures import style as house
from sae_gap.storage.results import CELL, grouped

_SIZES = (*CELL, "input_dim", "lam", "iterations")
_DASHES: list[dict[str, Any]] = [
    {"linestyle": "-", "marker": "o"},
    {"linestyle": house.DASHED, "marker": "s"},
    {"linestyle": (0, (1, 1.5)), "marker": "^"},
    {"linestyle": (0, (5, 1.5, 1, 1.5)), "marker": "D"},
    {"linestyle": (0, (8, 2)), "marker": "v"},
]
# Above this many points to a line whiskers would run together, so that a band shows the deviation.
_BANDED = 12
_PUBLISHED: dict[str, Any] = {
    "marker": "o",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "markeredgewidth": 0.8,
    "linestyle": "none",
}
# The values of the columns of a line: of its panel, its colour and its dash.
_Key: TypeAlias = tuple[Any, ...]


@house.styled
def curve(
    rows: house.Rows,
    x: str,
    y: str,
    *,
    line: str = "dictionary",
    dash: str = "",
    panel: str = "",
    logy: bool = False,
    published: house.Lines = (),
) -> Figure | None:
    """A metric along a column: means over seeds with ± 1 sd, as whiskers, or as a band where the
    points are many.

    Rows of the oracle without x are drawn as horizontal levels; other rows without x are left out.

    Args:
      rows: rows of a study.
      x: a column of numbers, on a log axis, where 0 has a place of its own, left of the least other
        value.
      y: the metric.
      line: the column of whose values each has a line of its own colour.
      dash: a column of whose values each has a line of its own dash and marker.
      panel: a column of whose values each has a panel.
      logy: whether y is on a log axis.
      published: means to hold ours against, each with the coordinates of a row, `<y>_mean` and
        `<y>_sd`; drawn as small hollow markers beside the line whose coordinates, sizes included,
        they share, as far as x is ours too.

    Returns:
      The figure, or None where no line has a mean.

    Raises:
      ValueError: a point mixes rows of different settings, or holds a seed twice: the rows vary in
        something that is neither x nor line nor dash nor panel.
    """
    rows, by = list(rows), (panel, line, dash)
    shown = [row for row in rows if row.get(x) is not None]
    lines = _lines(shown, by, x, y)
    if not lines:
        return None
    flat = [row for row in rows if row.get(x) is None and row.get("dictionary") == "oracle"]
    levels = _lines([{**row, line: row.get(line) or "oracle"} for row in flat], by, "", y)

    groups = list(dict.fromkeys(group for group, *_ in lines))
    titles = [labels.label(group, panel) for group in groups] if len(groups) > 1 else [""]
    tall = {1: 2.8, 2: 2.6}.get(len(groups), 2.0)
    figure, every = house.panels(titles, 1.8, tall, labels.metric_label(x), house.axis_label(y))
    panels = dict(zip(groups, every, strict=True))
    looks = house.looks([value for _, value, _ in (*lines, *levels)], line)
    dashes = _dashes({value for *_, value in lines}, dash)
    banded = max(map(len, lines.values())) > _BANDED
    for (group, value, _), points in levels.items():
        if group in panels:
            house.level(panels[group], points[0][f"{y}_mean"], color=looks[value]["color"])
    for (group, value, dashed), points in lines.items():
        _line(panels[group], points, x, y, looks[value] | dashes.get(dashed, {}), banded)
    overlaid = False
    for point in published:
        key = _owner(point, shown, by, x, y)
        if key in lines:
            look = _PUBLISHED | {"color": looks[key[1]]["color"], "alpha": 0.6}
            mean, sd = point[f"{y}_mean"], point.get(f"{y}_sd") or 0.0
            panels[key[0]].errorbar(point[x], mean, sd, elinewidth=0.6, zorder=4, **look)
            overlaid = True
    house.log_axis(every[0].xaxis, [row[x] for row in shown], most=8 if len(groups) == 1 else 4)
    if logy:
        drawn = [mean for points in (*lines.values(), *levels.values()) for mean in points]
        house.log_axis(every[0].yaxis, [mean[f"{y}_mean"] for mean in drawn])

    moving = {value for _, value, _ in lines}
    handles = []
    for value, look in looks.items():
        look["linestyle"] = "-" if value in moving else house.DASHED
        if dashes or banded or value not in moving:
            look["marker"] = ""
        handles.append(house.mark(labels.label(value, line), **look))
    for value, look in dashes.items():
        name = f"no {labels.metric_label(dash)}" if value is None else labels.label(value, dash)
        handles.append(house.mark(name, **look | ({"marker": ""} if banded else {})))
    if overlaid:
        handles.append(house.mark("published (mean ± sd)", **_PUBLISHED))
    title = f"{labels.metric_label(y)} by {labels.metric_label(x)}"
    house.finish(figure, title, shown, spread="bands" if banded else "whiskers", handles=handles)
    return figure


def _lines(rows: house.Lines, by: _Key, x: str, y: str) -> dict[_Key, house.Lines]:
    """The means of each line by ascending x, by the values of its columns."""
    lines = grouped(house.means(rows, [name for name in (*by, x) if name], (y,)), by)
    return {key: lines[key] for key in sorted(lines, key=lambda key: house.ranks(key, by))}


def _dashes(values: Iterable[Any], column: str) -> dict[Any, dict[str, Any]]:
    """A dash and a marker for each value, where there are several."""
    ordered = sorted(values, key=lambda value: labels.rank(value, column))
    return dict(zip(ordered, itertools.cycle(_DASHES), strict=False)) if len(ordered) > 1 else {}


def _line(axes: Axes, points: house.Lines, x: str, y: str, look: Any, banded: bool) -> None:
    columns = x, f"{y}_mean", f"{y}_sd"
    place, mean, sd = (np.array([point[name] for point in points], float) for name in columns)
    if banded:
        band = {"color": look["color"], "alpha": 0.18, "linewidth": 0, "zorder": 2}
        axes.fill_between(place, mean - sd, mean + sd, **band)
        axes.plot(place, mean, **{**look, "marker": "", "zorder": 3})
    else:
        axes.errorbar(place, mean, sd, elinewidth=0.8, zorder=3, **look)


def _owner(point: Mapping[str, Any], rows: house.Lines, by: _Key, x: str, y: str) -> Any:
    """The one line whose coordinates a published mean shares, as far as it has them; or None."""
    place, reach = point.get(x), [row[x] for row in rows]
    if None in (place, point.get(f"{y}_mean")) or not min(reach) <= place <= max(reach):
        return None
    given = [name for name in (*_SIZES, *by) if name != x and point.get(name) is not None]
    alike = [row for row in rows if all(point[name] == row.get(name) for name in given)]
    keys = [*grouped(alike, by)]
    return keys[0] if len(keys) == 1 else None
