"""A metric along whatever a study varies: a line a dictionary, a panel a size."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_gap.figures import labels, log_axes, tables
from sae_gap.figures import style as house
from sae_gap.storage.results import CELL

_SIZES = (*CELL, "input_dim", "lam", "iterations")
_LOOKS = (("-", "o"), ((0, (4, 2)), "s"), ((0, (1, 1.5)), "^"), ((0, (5, 1.5, 1, 1.5)), "D"), ((0, (8, 2)), "v"))
# Above this many points to a line whiskers would run together, so that a band shows the deviation.
_BANDED = 12
_ACROSS = 3
_MARKERS = "os^DvPXp<>h*"
# What one may choose, so that a line counts at its best x and not at its last.
_CHOSEN = ("lam",)
_PUBLISHED: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "markeredgewidth": 0.8,
}


class _Line(NamedTuple):
    """One line of one panel: what it is of, and x, mean and deviation at its points."""

    panel: tuple[Any, ...]
    values: dict[str, Any]
    points: list[tuple[float, float, float | None]]


@house.styled
def curve(
    rows: house.Rows,
    x: str,
    y: str,
    *,
    line: str | Sequence[str] = "dictionary",
    panel: str | Sequence[str] | None = None,
    style: str | None = None,
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
      line: the column, or columns, of whose values each has a line. `dictionary`, else the first of them, sets the colour; what
        sets the panel is left out.
      panel: the column, or columns, of whose values each has a panel; None draws one.
      style: a column whose values set the dash and the marker of a line.
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
        nor line nor panel nor style.
    """
    rows = list(rows)
    lined = (line,) if isinstance(line, str) else tuple(line)
    panelled = () if panel is None else (panel,) if isinstance(panel, str) else tuple(panel)
    # What a panel tells its lines need not tell again, and so another column sets their colour.
    every = tuple(dict.fromkeys((*lined, *([style] if style else []))))
    lined = tuple(name for name in every if name not in panelled) or every[:1]
    shown = [row for row in rows if row.get(x) is not None]
    lines = _lines(shown, x, y, lined, panelled)
    if not lines:
        return None
    panels = sorted({found.panel for found in lines}, key=lambda values: _rank(values, panelled))
    flat = [row for row in rows if row.get(x) is None and row.get("dictionary") in levels]
    flats = [found for found in _lines(flat, None, y, lined, panelled) if found.panel in panels]
    return _Drawing(x, y, lined, panelled, logx, logy, tuple(levels), shown, lines, flats, panels).draw(published)


def _lines(
    rows: Sequence[Mapping[str, Any]], x: str | None, y: str, lined: tuple[str, ...], panelled: tuple[str, ...]
) -> list[_Line]:
    by = tuple(dict.fromkeys((*panelled, *lined, *([] if x is None else [x]))))
    found: dict[tuple[Any, ...], _Line] = {}
    for mean in tables.summarise(rows, by=by, metrics=(y,)):
        if mean[f"{y}_mean"] is not None:
            panel, values = tuple(mean[name] for name in panelled), {name: mean[name] for name in lined}
            one = found.setdefault((panel, *values.values()), _Line(panel, values, []))
            one.points.append((0.0 if x is None else mean[x], mean[f"{y}_mean"], mean[f"{y}_sd"]))
    for one in found.values():
        one.points.sort(key=lambda point: point[0])
    return sorted(found.values(), key=lambda one: _rank(tuple(one.values.values()), lined))


def _rank(values: tuple[Any, ...], columns: tuple[str, ...]) -> list[Any]:
    return [labels.rank(value, column) for value, column in zip(values, columns, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """The lines of a curve, and what they look like."""

    x: str
    y: str
    lined: tuple[str, ...]
    panelled: tuple[str, ...]
    logx: bool
    logy: bool
    levels: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[_Line]
    flats: Sequence[_Line]
    panels: Sequence[tuple[Any, ...]]

    @property
    def leading(self) -> str:
        """The column that sets the colour."""
        return "dictionary" if "dictionary" in self.lined else self.lined[0]

    @functools.cached_property
    def colours(self) -> dict[Any, Any]:
        values = {line.values[self.leading] for line in [*self.lines, *self.flats]}
        numbers = sorted(value for value in values if isinstance(value, int | float))
        # Numbers have an order, which a row of unrelated colours would hide. The palest end is hard to see on white.
        ramp = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, max(len(numbers), 1)))
        return {
            value: ramp[numbers.index(value)] if value in numbers else labels.colour(value, self.leading)
            for value in sorted(values, key=lambda value: labels.rank(value, self.leading))
        }

    @functools.cached_property
    def dashed(self) -> list[str]:
        """The columns, beside the leading one, in which lines differ: they set the dash and the marker."""
        others = [name for name in self.lined if name != self.leading]
        return [name for name in others if len({line.values[name] for line in self.lines}) > 1]

    @functools.cached_property
    def looks(self) -> dict[tuple[Any, ...], tuple[Any, str]]:
        values = {tuple(line.values[name] for name in self.dashed) for line in self.lines}
        ordered = sorted(values, key=lambda value: _rank(value, tuple(self.dashed)))
        return {value: _LOOKS[place % len(_LOOKS)] for place, value in enumerate(ordered)}

    @property
    def banded(self) -> bool:
        return any(len(line.points) > _BANDED for line in self.lines)

    def draw(self, published: Sequence[Mapping[str, Any]]) -> Figure:
        titles = [self._panel(values) for values in self.panels]
        across = max(1, min(len(self.panels), _ACROSS, int((house.WIDTH - 0.6) / (house.inches(titles, 8) + 0.1))))
        down = -(-len(self.panels) // across)
        figure = Figure(
            figsize=(house.WIDTH, 4.4 if len(self.panels) == 1 else 1.6 + (2.6 if across < _ACROSS else 2.0) * down)
        )
        every = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        overlaid = False
        for axes, values, title in zip(every, self.panels, titles, strict=False):
            axes.set_title(title, loc="left", fontsize=8)
            axes.tick_params(labelbottom=True)
            for line in (line for line in self.flats if line.panel == values):
                level = {"color": self.colours[line.values[self.leading]], "linestyle": house.DASHED}
                axes.axhline(line.points[0][1], zorder=1, linewidth=1, **level)
            mine = [line for line in self.lines if line.panel == values]
            for line in mine:
                self._line(axes, line)
            for point, line in self._published(values, mine, published):
                self._overlay(axes, point, self.colours[line.values[self.leading]])
                overlaid = True
        for axes in every[len(self.panels) :]:
            axes.remove()
        if self.logx:
            log_axes.log_axis(every[0], "x", [point[0] for line in self.lines for point in line.points])
        if self.logy:
            log_axes.log_axis(every[0], "y", [point[1] for line in [*self.lines, *self.flats] for point in line.points])
        figure.supylabel(house.axis_label(self.y), fontsize=9)
        finding = self._finding()
        house.head(figure, finding, self.rows, deviation="bands" if self.banded else "whiskers")
        house.foot(figure, self._handles(overlaid), labels.metric_label(self.x))
        house.caption(figure, finding, *(self._in_words(values) for values in self.panels))
        return figure

    def _panel(self, values: tuple[Any, ...]) -> str:
        if len(self.panels) == 1:
            return ""
        named = [dict(zip(self.panelled, other, strict=True)) for other in self.panels]
        return house.values_label(dict(zip(self.panelled, values, strict=True)), house.varied(named, self.panelled))

    def _name(self, line: _Line) -> str:
        """What tells a line from the others: its colour's name, and its dash's where lines of that colour differ in it."""
        others = [other for other in [*self.lines, *self.flats] if other.values[self.leading] == line.values[self.leading]]
        varied = house.varied([other.values for other in others], self.dashed)
        return house.values_label(line.values, [self.leading, *varied])

    def _look(self, line: _Line) -> tuple[Any, str]:
        if self.dashed:
            return self.looks[tuple(line.values[name] for name in self.dashed)]
        return "-", self._marker(line.values[self.leading])

    def _marker(self, value: Any) -> str:
        return _MARKERS[list(self.colours).index(value) % len(_MARKERS)]

    def _line(self, axes: Axes, line: _Line) -> None:
        colour, (dash, marker) = self.colours[line.values[self.leading]], self._look(line)
        x, y = (np.array([point[place] for point in line.points], float) for place in (0, 1))
        sd = np.array([point[2] or 0.0 for point in line.points])
        # On a log axis a whisker must not reach zero.
        below = np.minimum(sd, 0.9 * np.abs(y)) if self.logy else sd
        look: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 1.2, "zorder": 3}
        if self.banded:
            axes.fill_between(x, y - below, y + sd, color=colour, alpha=0.18, linewidth=0, zorder=2)
            axes.plot(x, y, **look)
        else:
            axes.errorbar(x, y, np.array([below, sd]), marker=marker, markersize=4, elinewidth=0.8, **look)

    def _published(
        self, values: tuple[Any, ...], lines: Sequence[_Line], published: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[Mapping[str, Any], _Line]]:
        """Each published point that one line of the panel shares its coordinates with, and that line."""
        rows = [row for row in self.rows if tuple(row.get(name) for name in self.panelled) == values]
        reach = [row[self.x] for row in rows]
        for point in published:
            place, mean = point.get(self.x), point.get(f"{self.y}_mean")
            if place is None or mean is None or not min(reach) <= place <= max(reach):
                continue
            named = [name for name in (*_SIZES, *self.panelled) if name != self.x and point.get(name) is not None]
            if any(point[name] not in {row.get(name) for row in rows} for name in named):
                continue
            alike = [line for line in lines if all(point.get(name) in (None, line.values[name]) for name in self.lined)]
            if len(alike) == 1:
                yield point, alike[0]

    def _overlay(self, axes: Axes, point: Mapping[str, Any], colour: Any) -> None:
        sd, mean = point.get(f"{self.y}_sd") or 0.0, point[f"{self.y}_mean"]
        below = min(sd, 0.9 * abs(mean)) if self.logy else sd
        axes.errorbar(
            *(point[self.x], mean, [[below], [sd]]), color=colour, elinewidth=0.6, linestyle="none", alpha=0.5, zorder=4
        )
        axes.plot(point[self.x], mean, color=colour, zorder=4, gid="published", **_PUBLISHED)

    def _handles(self, overlaid: bool) -> list[Line2D]:
        handles = []
        level = {line.values[self.leading] for line in self.flats} - {line.values[self.leading] for line in self.lines}
        for value, colour in self.colours.items():
            look: Any = {"linestyle": house.DASHED, "linewidth": 1} if value in level else {"linewidth": 1.5}
            if not (self.dashed or self.banded or value in level):
                look |= {"marker": self._marker(value), "markersize": 4}
            handles.append(Line2D([], [], color=colour, label=labels.label(value, self.leading), **look))
        for values, (dash, marker) in self.looks.items() if self.dashed else ():
            told = {name: value for name, value in zip(self.dashed, values, strict=True) if value is not None}
            label = house.values_label(told, told) or f"no {labels.metric_label(self.dashed[0])}"
            shape: Any = {"linestyle": dash} | ({} if self.banded else {"marker": marker, "markersize": 4})
            handles.append(Line2D([], [], color=house.QUIET, label=label, **shape))
        if overlaid:
            handles.append(Line2D([], [], color=house.QUIET, label="published (mean ± sd)", **_PUBLISHED))
        return handles

    def _ends(self, panel: tuple[Any, ...]) -> list[tuple[_Line, float, float, float | None]]:
        """Where the rivals of a panel end: each with its last x, or its best if x may be chosen; the best of each colour first.

        Those that stop before the last x of all are no rivals, and nor is the oracle.
        """
        lines = [line for line in self.lines if line.panel == panel]
        rivals = [line for line in lines if line.values.get("dictionary") not in (*self.levels, "oracle")] or lines
        last = max(line.points[-1][0] for line in rivals)
        ends = [(line, *self._end(line)) for line in rivals if self.x in _CHOSEN or line.points[-1][0] == last]
        sign = labels.better(self.y) or 1
        ends.sort(key=lambda end: -sign * end[2])
        firsts = {end[0].values[self.leading]: end for end in reversed(ends)}
        return [end for end in ends if len(firsts) == 1 or end is firsts[end[0].values[self.leading]]]

    def _end(self, line: _Line) -> tuple[float, float, float | None]:
        sign = labels.better(self.y) or 1
        return max(line.points, key=lambda point: sign * point[1]) if self.x in _CHOSEN else line.points[-1]

    def _finding(self) -> str:
        metric, ends = labels.metric_label(self.y), [self._ends(panel) for panel in self.panels]
        extreme = "lowest" if labels.better(self.y) < 0 else "highest"
        best, *rest = ends[0]
        at = labels.label(best[1], self.x)
        if len(ends) > 1 and any(len(ended) > 1 for ended in ends):
            leaders = [self._rival(ended, 0) for ended in ends]
            leader = max(dict.fromkeys(leaders), key=leaders.count)
            places = {ended[0][1] for ended in ends}
            where = (
                f"at {at}"
                if len(places) == 1
                else f"at {'its best' if self.x in _CHOSEN else 'the last'} {labels.metric_label(self.x)}"
            )
            return f"{metric} {where} is {extreme} with {leader} in {leaders.count(leader)} of {len(ends)} panels"
        if rest:
            first, second = (self._rival(ends[0], place) for place in (0, 1))
            return f"{metric} at {at} is {extreme} with {first}: {self._ahead(best[2], rest[0][2])} {second}"
        (x0, y0, _), (x1, y1, _) = best[0].points[0], best[0].points[-1]
        moved = f"{house.number(y0)} at {labels.label(x0, self.x)} to {house.number(y1)} at {labels.label(x1, self.x)}"
        return f"{metric} with {self._name(best[0])} goes from {moved}"

    def _rival(self, ends: Sequence[tuple[_Line, float, float, float | None]], place: int) -> str:
        alike = len({end[0].values[self.leading] for end in ends}) == 1 < len(ends)
        line = ends[place][0]
        return self._name(line) if alike else house.values_label(line.values, [self.leading])

    def _ahead(self, best: float, second: float) -> str:
        """The best value, and how far the next is from it: in ratios on a log axis."""
        if self.logy and min(best, second) > 0:
            low, high = sorted((best, second))
            if high / low < 1.05:
                return f"{house.number(best)}, level with"
            return f"{house.number(best)}, {high / low:,.2g} times {'below' if best < second else 'above'}"
        gap = house.number(abs(best - second))
        if house.number(best) == house.number(second):
            return f"{house.number(best)}, level with"
        return f"{house.number(best)}, {gap} {'below' if best < second else 'above'}"

    def _in_words(self, panel: tuple[Any, ...]) -> str:
        """The ends of all lines, or of the best one where there are several panels."""
        ends = self._ends(panel)
        at = "" if self.x in _CHOSEN else f"at {labels.label(ends[0][1], self.x)}"
        if len(self.panels) > 1:
            told = [f"{self._name(line)} {house.spread(mean, sd)}" for line, _, mean, sd in ends[:1]]
        else:
            last = [(line, self._end(line)) for line in self.lines]
            told = [f"{self._name(line)} {house.spread(*end[1:])}" for line, end in last if at == "" or end[0] == ends[0][1]]
        told += [f"{self._name(line)} {house.spread(*line.points[0][1:])}" for line in self.flats if line.panel == panel]
        where = ", ".join(part for part in (self._panel(panel), at) if part)
        return f"{where}: {', '.join(told)}" if where else ", ".join(told)
