"""A metric along whatever a study varies: a line a dictionary, a panel a size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels
from sae_gap.figures import style as house
from sae_gap.storage.results import CELL, Row

_SIZES = (*CELL, "input_dim", "lam", "iterations")
_DASHES = (("-", "o"), ((0, (4, 2)), "s"), ((0, (1, 1.5)), "^"), ((0, (5, 1.5, 1, 1.5)), "D"), ((0, (8, 2)), "v"))
# Above this many points to a line whiskers would run together, so that a band shows the deviation.
_BANDED = 12
_PUBLISHED: dict[str, Any] = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 0.8}


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
      line: the column, or columns, of whose values each has a line: the first that sets no panel sets the colour, the others
        the dash and the marker.
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
      ValueError: a point mixes rows of different settings, or holds a seed twice: the rows vary in something that is neither x
        nor line nor panel.
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
    flats = house.means(flat, by, (y,))

    groups = sorted({values[: len(panelled)] for values in lines}, key=lambda values: house.ranks(values, panelled))
    titles = house.titles([dict(zip(panelled, values, strict=True)) for values in groups])
    tall = 2.8 if len(groups) == 1 else 2.6 if len(groups) == 2 else 2.0
    figure, every = house.panels(titles, 1.8, tall, labels.metric_label(x), house.axis_label(y))
    panels = dict(zip(groups, every, strict=True))

    colours = house.looks([values[len(panelled)] for values in lines] + [mean[leading] for mean in flats], leading)
    dashes = _dashes([values[len(panelled) + 1 :] for values in lines], others)
    banded = max(map(len, lines.values())) > _BANDED
    for mean in flats:
        axes = panels.get(tuple(mean[name] for name in panelled))
        if axes is not None:
            house.level(axes, mean[f"{y}_mean"], color=colours[mean[leading]]["color"])
    for values, points in lines.items():
        look = colours[values[len(panelled)]] | dashes.get(values[len(panelled) + 1 :], {})
        _line(panels[values[: len(panelled)]], points, x, y, look, banded)
    overlaid = [(point, owner) for point in published if (owner := _owner(point, shown, by, x, y)) in lines]
    for point, values in overlaid:
        look = {"color": colours[values[len(panelled)]]["color"], "linestyle": "none", "alpha": 0.6, "zorder": 4}
        axes = panels[values[: len(panelled)]]
        axes.errorbar(point[x], point[f"{y}_mean"], point.get(f"{y}_sd") or 0.0, elinewidth=0.6, **look | _PUBLISHED)
    if logx:
        house.log_axis(every[0].xaxis, [row[x] for row in shown], most=8 if len(every) == 1 else 4)
    if logy:
        drawn = [mean for points in (*lines.values(), flats) for mean in points]
        house.log_axis(every[0].yaxis, [mean[f"{y}_mean"] for mean in drawn])

    flat_only = {mean[leading] for mean in flats} - {values[len(panelled)] for values in lines}
    handles = []
    for value, look in colours.items():
        plain = {"marker": ""} if dashes or banded or value in flat_only else {}
        dash = house.DASHED if value in flat_only else "-"
        handles.append(house.mark(labels.label(value, leading), **look | plain | {"linestyle": dash}))
    for values, look in dashes.items():
        name = house.values_label(dict(zip(others, values, strict=True))) or f"no {labels.metric_label(others[0])}"
        handles.append(house.mark(name, **look | ({"marker": ""} if banded else {})))
    if overlaid:
        handles.append(house.mark("published (mean ± sd)", **_PUBLISHED))
    title = f"{labels.metric_label(y)} by {labels.metric_label(x)}"
    house.finish(figure, title, shown, spread="bands" if banded else "whiskers", handles=handles)
    return figure


def _lines(rows: Sequence[Mapping[str, Any]], by: Sequence[str], x: str, y: str) -> dict[tuple[Any, ...], list[Row]]:
    """The means of each line by ascending x, by the values of its columns."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for mean in house.means(rows, (*by, x), (y,)):
        lines.setdefault(tuple(mean[name] for name in by), []).append(mean)
    return {
        values: sorted(lines[values], key=lambda mean: mean[x])
        for values in sorted(lines, key=lambda values: house.ranks(values, by))
    }


def _dashes(values: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """A dash and a marker for each combination of values, where there are several."""
    ordered = sorted(set(values), key=lambda each: house.ranks(each, columns))
    looks = [{"linestyle": dash, "marker": marker} for dash, marker in _DASHES]
    return {each: looks[place % len(looks)] for place, each in enumerate(ordered)} if len(ordered) > 1 else {}


def _line(axes: Axes, points: Sequence[Row], x: str, y: str, look: Mapping[str, Any], banded: bool) -> None:
    place, mean, sd = np.array([(point[x], point[f"{y}_mean"], point[f"{y}_sd"]) for point in points], float).T
    if banded:
        axes.fill_between(place, mean - sd, mean + sd, color=look["color"], alpha=0.18, linewidth=0, zorder=2)
        axes.plot(place, mean, **{**look, "marker": ""}, zorder=3)
    else:
        axes.errorbar(place, mean, sd, elinewidth=0.8, zorder=3, **look)


def _owner(
    point: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], by: Sequence[str], x: str, y: str
) -> tuple[Any, ...] | None:
    """The one line whose coordinates a published mean shares, as far as it has them."""
    reach = [row[x] for row in rows]
    if point.get(x) is None or point.get(f"{y}_mean") is None or not min(reach) <= point[x] <= max(reach):
        return None
    given = [name for name in (*_SIZES, *by) if name != x and point.get(name) is not None]
    alike = {tuple(row.get(name) for name in by) for row in rows if all(point[name] == row.get(name) for name in given)}
    return alike.pop() if len(alike) == 1 else None
