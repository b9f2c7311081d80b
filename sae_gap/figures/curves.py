"""A metric along whatever a study varies: a line a dictionary, a panel a size."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels
from sae_gap.figures import style as house
from sae_gap.storage.results import CELL, Row

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
_Rows: TypeAlias = Sequence[Mapping[str, Any]]
# The values of the columns that tell a line from the others: of its panel, its colour, its dash.
_Key: TypeAlias = tuple[Any, ...]


@house.styled
def curve(
    rows: house.Rows,
    x: str,
    y: str,
    *,
    line: str | Sequence[str] = "dictionary",
    panel: str | Sequence[str] | None = None,
    logx: bool = False,
    logy: bool = False,
    levels: Sequence[str] = (),
    published: Sequence[Mapping[str, Any]] = (),
) -> Figure | None:
    """A metric along a column: means over seeds with ± 1 sd, as whiskers, or as a band where the points are many.

    Args:
      rows: rows of a study.
      x: a column of numbers. On a log axis 0 has a place of its own, left of the least other value.
      y: the metric.
      line: the column, or columns, of whose values each has a line. The first that sets no panel
        sets the colour, the others the dash and the marker.
      panel: the column, or columns, of whose values each has a panel; None draws one.
      logx: whether x is on a log axis.
      logy: whether y is.
      levels: dictionaries, such as "oracle", drawn as horizontal levels where their rows have no x. Other rows without x are
        left out.
      published: means to hold ours against, each with the coordinates of a row, `<y>_mean` and `<y>_sd`; drawn as small hollow
        markers beside the line whose coordinates, sizes included, they share, as far as x is ours too.

    Returns:
      The figure, or None where no line has a mean.

    Raises:
      ValueError: a point mixes rows of different settings, or holds a seed twice: the rows vary in
        something that is neither x nor line nor panel.
    """
    rows, lined, panelled = list(rows), house.columns(line), house.columns(panel)
    # What a panel says its lines need not say again, and so another column sets their colour.
    leading, *others = [name for name in lined if name not in panelled] or lined[:1]
    by = (*panelled, leading, *others)
    shown = [row for row in rows if row.get(x) is not None]
    lines = _lines(shown, by, x, y)
    if not lines:
        return None
    flat = [row for row in rows if row.get(x) is None and row.get("dictionary") in levels]
    flat = [{**row, leading: row.get(leading) or row["dictionary"]} for row in flat]
    flats = _lines(flat, by, None, y)
    place = len(panelled)

    groups = sorted({key[:place] for key in lines}, key=lambda key: house.ranks(key, panelled))
    titles = house.titles([dict(zip(panelled, group, strict=True)) for group in groups])
    tall = {1: 2.8, 2: 2.6}.get(len(groups), 2.0)
    sides = labels.metric_label(x), house.axis_label(y)
    figure, every = house.panels(titles, 1.8, tall, *sides)
    panels = dict(zip(groups, every, strict=True))
    looks = house.looks([key[place] for key in (*lines, *flats)], leading)
    dashes = _dashes([key[place + 1 :] for key in lines], others)
    banded = max(map(len, lines.values())) > _BANDED
    for key, points in flats.items():
        if key[:place] in panels:
            height, colour = points[0][f"{y}_mean"], looks[key[place]]["color"]
            house.level(panels[key[:place]], height, color=colour)
    for key, points in lines.items():
        look = looks[key[place]] | dashes.get(key[place + 1 :], {})
        _line(panels[key[:place]], points, x, y, look, banded)
    overlaid = False
    for point in published:
        key = _owner(point, shown, by, x, y)
        if key in lines:
            look = _PUBLISHED | {"color": looks[key[place]]["color"], "alpha": 0.6}
            mean, sd = point[f"{y}_mean"], point.get(f"{y}_sd") or 0.0
            panels[key[:place]].errorbar(point[x], mean, sd, elinewidth=0.6, zorder=4, **look)
            overlaid = True
    if logx:
        most = 8 if len(groups) == 1 else 4
        house.log_axis(every[0].xaxis, [row[x] for row in shown], most)
    if logy:
        drawn = [mean for points in (*lines.values(), *flats.values()) for mean in points]
        house.log_axis(every[0].yaxis, [mean[f"{y}_mean"] for mean in drawn])

    moving = {key[place] for key in lines}
    handles = []
    for value, look in looks.items():
        look = look | {"linestyle": "-" if value in moving else house.DASHED}
        if dashes or banded or value not in moving:
            look["marker"] = ""
        handles.append(house.mark(labels.label(value, leading), **look))
    for key, look in dashes.items():
        name = house.values_label(dict(zip(others, key, strict=True)))
        look = look | ({"marker": ""} if banded else {})
        handles.append(house.mark(name or f"no {labels.metric_label(others[0])}", **look))
    if overlaid:
        handles.append(house.mark("published (mean ± sd)", **_PUBLISHED))
    title = f"{labels.metric_label(y)} by {labels.metric_label(x)}"
    house.finish(figure, title, shown, spread="bands" if banded else "whiskers", handles=handles)
    return figure


def _lines(rows: _Rows, by: tuple[str, ...], x: str | None, y: str) -> dict[_Key, list[Row]]:
    """The means of each line by ascending x, by the values of its columns."""
    lines: dict[_Key, list[Row]] = {}
    for mean in house.means(rows, by if x is None else (*by, x), (y,)):
        lines.setdefault(tuple(mean[name] for name in by), []).append(mean)
    return {key: lines[key] for key in sorted(lines, key=lambda key: house.ranks(key, by))}


def _dashes(keys: Sequence[_Key], columns: Sequence[str]) -> dict[_Key, dict[str, Any]]:
    """A dash and a marker for each combination of values, where there are several."""
    ordered = sorted(set(keys), key=lambda key: house.ranks(key, columns))
    if len(ordered) == 1:
        return {}
    return dict(zip(ordered, itertools.cycle(_DASHES), strict=False))


def _line(axes: Axes, points: _Rows, x: str, y: str, look: Any, banded: bool) -> None:
    columns = x, f"{y}_mean", f"{y}_sd"
    place, mean, sd = (np.array([point[name] for point in points], float) for name in columns)
    if banded:
        band = {"color": look["color"], "alpha": 0.18, "linewidth": 0, "zorder": 2}
        axes.fill_between(place, mean - sd, mean + sd, **band)
        axes.plot(place, mean, **{**look, "marker": "", "zorder": 3})
    else:
        axes.errorbar(place, mean, sd, elinewidth=0.8, zorder=3, **look)


def _owner(point: Mapping[str, Any], rows: _Rows, by: _Key, x: str, y: str) -> Any:
    """The one line whose coordinates a published mean shares, as far as it has them; or None."""
    place, reach = point.get(x), [row[x] for row in rows]
    if None in (place, point.get(f"{y}_mean")) or not min(reach) <= place <= max(reach):
        return None
    given = [name for name in (*_SIZES, *by) if name != x and point.get(name) is not None]
    alike = [row for row in rows if all(point[name] == row.get(name) for name in given)]
    keys = {tuple(row.get(name) for name in by) for row in alike}
    return keys.pop() if len(keys) == 1 else None
