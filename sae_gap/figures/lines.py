"""Draws all lines: columns along another, with intervals, levels, panels and a legend."""

from collections.abc import Collection, Iterable, Mapping
from itertools import cycle, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sae_gap.figures import style
from sae_gap.figures.labels import colour, label, metric_label, rank
from sae_gap.figures.style import (
    DASHED,
    QUIET,
    Lines,
    axis_label,
    finish,
    log_axis,
    styled,
)
from sae_gap.storage import Row, grouped

MARKERS = [{"marker": marker} for marker in "os^DvPXp<>h*"]
_DASHES = [
    {"linestyle": dash, "color": QUIET, "marker": marker}
    for dash, marker in zip(
        ("-", DASHED, (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2))),
        "os^Dv",
        strict=True,
    )
]
_PLAIN = {"linestyle": "-", "color": QUIET}
_FLAT = {"marker": "", "linestyle": DASHED}
_LEVEL: Any = {**_FLAT, "linewidth": 1, "zorder": 1}
# Lines with more points show intervals as a band, as whiskers would run together.
_BANDED = 12


@styled
def draw_lines(
    points: Lines,
    x: str,
    y: Collection[str],
    *,
    line: str = "dictionary",
    dash: str = "",
    panel: str = "",
    looks: Mapping[str, Mapping[Any, Any]] | None = None,
    logx: bool = True,
    ticks: bool = False,
    logy: Collection[str] = (),
    size: tuple[float, float] = (1.8, 0),
    of: Lines,
    **about: str,
) -> Any:
    """Draws columns along another: a line for each value of some columns.

    A number is `<column>_mean`, or else the column itself. Its interval is ± `<column>_sd`, drawn
    as whiskers, or as a band if a line has many points. A point without x becomes a level across
    its panel. `text` is written beside its point.

    Args:
      points: rows; a line runs through its points in this order.
      x: a column of numbers, or of names, which stand side by side.
      y: columns, a panel each. A panel leaves out points without its column.
      line: a column; each of its values has a colour.
      dash: a column; each of its values has a dash and a marker.
      panel: a column; each of its values has a panel, if there is one y.
      looks: for each value of a column its `label` and matplotlib's options, in the order of the
        legend. Other columns use `labels`.
      logx: whether x is on a log axis, where 0 has a place of its own.
      ticks: whether each value of x has its own tick on a log axis, for few values.
      logy: the y that are on a log axis.
      size: the least width of a panel and its height, in inches; a height of 0 shrinks as panels
        are added.
      of: the rows whose sizes and seeds the figure states.
      about: title, further conditions and caption, for `style.finish`.

    Returns:
      The figure, or None if no point has both x and y.
    """
    marks = [
        {
            "panel": (metric, point.get(panel)),
            "line": point.get(line),
            "dash": point.get(dash),
            "x": _number(point, x),
            "y": _number(point, metric),
            "wide": point.get(f"{x}_sd") or 0.0,
            "high": point.get(f"{metric}_sd") or 0.0,
            "text": point.get("text"),
        }
        for metric, point in product(y, points)
        if _number(point, metric) is not None
    ]
    moving = [mark for mark in marks if mark["x"] is not None]
    if not moving:
        return None
    values = {role: {mark[role] for mark in marks} for role in ("line", "dash")}
    looks = looks or {}
    dashed = {mark["dash"] for mark in moving}
    dashes = looks.get(dash, {})
    if not dashes and len(dashed) > 1:
        dashes = looks_of(dashed, dash, _DASHES)
    colours = looks.get(line)
    if not colours:
        colours = looks_of(values["line"], line, [{}] if dashes else MARKERS)
    groups = [group for (group,) in grouped(moving, ("panel",))]
    several = len({value for _, value in groups}) > 1
    figure, every = style.panels(
        [
            label(value, panel) if several else axis_label(metric)
            for metric, value in groups
        ],
        size[0],
        size[1] or max(2.0, 3 - 0.2 * len(groups)),
        (metric_label(x), axis_label(groups[0][0]) * several),
        sharex=not isinstance(moving[0]["x"], str),
        sharey=several,
    )
    panels = dict(zip(groups, every, strict=True))
    for mark in marks:
        if mark["x"] is None and mark["panel"] in panels:
            # Such as the oracle's score.
            look = _LEVEL | colours[mark["line"]] | {"marker": ""}
            panels[mark["panel"]].axhline(mark["y"], **look)
    paths = grouped(moving, ("panel", "line", "dash"))
    is_band = any(
        len(path) > _BANDED and any(mark["high"] for mark in path)
        for path in paths.values()
    )
    bare = {"marker": ""} if is_band else {}
    for (group, value, code), path in paths.items():
        look = {**dashes.get(code, {}), **colours[value], **bare}
        _draw(panels[group], path, look, is_band)
    if logx:
        most = (8 if len(groups) == 1 else 4) if ticks else 0
        log_axis(every[0].xaxis, [mark["x"] for mark in moving], most)
    for (metric, _), axes in panels.items():
        if metric in logy:
            heights = [mark["y"] for mark in marks if mark["panel"][0] == metric]
            log_axis(axes.yaxis, heights)
    lines = {(role, mark[role]) for mark in moving for role in values}
    handles = [
        Line2D([], [], **_PLAIN | look | (bare if (role, value) in lines else _FLAT))
        for role, table in (("line", colours), ("dash", dashes))
        for value, look in table.items()
        if value in values[role]
    ]
    about.setdefault("more", "intervals: ± 1 sd" * (points[0].get("seeds", 1) > 1))
    finish(figure, of, handles, **about)
    return figure


def _number(point: Row, column: str) -> Any:
    return point.get(f"{column}_mean", point.get(column))


def looks_of(
    values: Iterable[Any], column: str, looks: Iterable[dict[str, Any]]
) -> Any:
    """Returns the label, the colour and another look of each value of a column."""
    ordered = sorted(values, key=lambda value: rank(value, column))
    return {
        value: {
            "label": label(value, column),
            "color": colour(value, column),
            **look,
        }
        for value, look in zip(ordered, cycle(looks), strict=False)
    }


def _draw(axes: Axes, path: Lines, look: Any, is_band: bool) -> None:
    x, *numbers = ([mark[name] for mark in path] for name in ("x", "y", "high", "wide"))
    # An unknown number is None.
    y, high, wide = np.array(numbers, float)
    if is_band:
        axes.fill_between(
            x, y - high, y + high, color=look["color"], alpha=0.18, linewidth=0
        )
    ends = None if is_band else high, wide if any(wide) else None
    axes.errorbar(x, y, *ends, elinewidth=0.8, **{"zorder": 3, **look})
    up = 4 if y[0] > y[-1] else -9
    for mark in path:
        if mark["text"]:
            text = axes.annotate(
                mark["text"],
                (mark["x"], mark["y"]),
                (4, up),
                textcoords="offset points",
            )
            text.set(fontsize=7, color=look["color"])
