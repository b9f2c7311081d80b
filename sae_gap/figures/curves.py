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
# What one may choose, so that a line counts at its best x and not at its last.
_CHOSEN = ("lam",)
_PUBLISHED: dict[str, Any] = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 0.8}

# x, mean and deviation.
_Point = tuple[float, float, float | None]


class _Line(NamedTuple):
    """One line of one panel: what it is of, and its points."""

    panel: tuple[Any, ...]
    values: dict[str, Any]
    points: list[_Point]


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
        """The colour of each value of the leading column."""
        values = {line.values[self.leading] for line in [*self.lines, *self.flats]}
        numbers = sorted(value for value in values if isinstance(value, int | float))
        # Numbers have an order, which a row of unrelated colours would hide. The palest end is hard to see on white.
        ramp = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, max(len(numbers), 1)))
        return {
            value: ramp[numbers.index(value)] if value in numbers else labels.colour(value, self.leading)
            for value in sorted(values, key=lambda value: labels.rank(value, self.leading))
        }

    @functools.cached_property
    def dashed(self) -> tuple[str, ...]:
        """The columns, beside the leading one, in which lines differ: they set the dash and the marker."""
        others = [name for name in self.lined if name != self.leading]
        return tuple(name for name in others if len({line.values[name] for line in self.lines}) > 1)

    @functools.cached_property
    def looks(self) -> dict[tuple[Any, ...], tuple[Any, str]]:
        """The dash and the marker of each combination of values of the dashed columns."""
        values = {tuple(line.values[name] for name in self.dashed) for line in self.lines}
        ordered = sorted(values, key=lambda value: _rank(value, self.dashed))
        return {value: _LOOKS[place % len(_LOOKS)] for place, value in enumerate(ordered)}

    @property
    def banded(self) -> bool:
        return any(len(line.points) > _BANDED for line in self.lines)

    def draw(self, published: Sequence[Mapping[str, Any]]) -> Figure:
        titles = [*self.titles.values()]
        across = max(1, min(len(titles), _ACROSS, int((house.WIDTH - 0.6) / (house.inches(titles, 8) + 0.1))))
        tall = (2.6 if across < _ACROSS else 2.0) * -(-len(titles) // across)
        figure = Figure(figsize=(house.WIDTH, 4.4 if len(titles) == 1 else 1.6 + tall))
        every = house.panels(figure, titles, across)
        overlaid = False
        for axes, values in zip(every, self.panels, strict=True):
            for line in self._of(self.flats, values):
                axes.axhline(line.points[0][1], color=self._colour(line), linestyle=house.DASHED, linewidth=1, zorder=1)
            for line in self._of(self.lines, values):
                self._line(axes, line)
            for point, line in self._published(values, published):
                self._overlay(axes, point, self._colour(line))
                overlaid = True
        if self.logx:
            log_axes.log_axis(every[0], "x", [point[0] for line in self.lines for point in line.points])
        if self.logy:
            log_axes.log_axis(every[0], "y", [point[1] for line in [*self.lines, *self.flats] for point in line.points])
        finding = self._finding()
        told = [self._in_words(values) for values in self.panels]
        sides = {"label": labels.metric_label(self.x), "side": house.axis_label(self.y)}
        deviation, handles = "bands" if self.banded else "whiskers", self._handles(overlaid)
        house.finish(figure, finding, self.rows, *told, deviation=deviation, handles=handles, **sides)
        return figure

    @staticmethod
    def _of(lines: Sequence[_Line], panel: tuple[Any, ...]) -> list[_Line]:
        return [line for line in lines if line.panel == panel]

    @functools.cached_property
    def titles(self) -> dict[tuple[Any, ...], str]:
        """What tells a panel from the others."""
        named = [dict(zip(self.panelled, panel, strict=True)) for panel in self.panels]
        titles = house.titles(named, self.panelled) if len(named) > 1 else [""]
        return dict(zip(self.panels, titles, strict=True))

    def _colour(self, line: _Line) -> Any:
        return self.colours[line.values[self.leading]]

    def _marker(self, value: Any) -> str:
        return house.MARKERS[list(self.colours).index(value) % len(house.MARKERS)]

    def _line(self, axes: Axes, line: _Line) -> None:
        dash, marker = "-", self._marker(line.values[self.leading])
        if self.dashed:
            dash, marker = self.looks[tuple(line.values[name] for name in self.dashed)]
        x, y, sd = np.array([(place, mean, sd or 0.0) for place, mean, sd in line.points], float).T
        below, above = whiskers = house.whiskers(y, sd, log=self.logy)
        look: dict[str, Any] = {"color": self._colour(line), "linestyle": dash, "linewidth": 1.2, "zorder": 3}
        if self.banded:
            axes.fill_between(x, y - below, y + above, color=self._colour(line), alpha=0.18, linewidth=0, zorder=2)
            axes.plot(x, y, **look)
        else:
            axes.errorbar(x, y, whiskers, marker=marker, markersize=4, elinewidth=0.8, **look)

    def _published(
        self, values: tuple[Any, ...], published: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[Mapping[str, Any], _Line]]:
        """Each published point that one line of the panel shares its coordinates with, and that line."""
        rows = [row for row in self.rows if tuple(row.get(name) for name in self.panelled) == values]
        reach = [row[self.x] for row in rows]
        for point in published:
            place, mean = point.get(self.x), point.get(f"{self.y}_mean")
            named = [name for name in (*_SIZES, *self.panelled) if name != self.x and point.get(name) is not None]
            shared = all(any(row.get(name) == point[name] for row in rows) for name in named)
            alike = [
                line
                for line in self._of(self.lines, values)
                if all(point.get(name) in (None, line.values[name]) for name in self.lined)
            ]
            if None not in (place, mean) and min(reach) <= place <= max(reach) and shared and len(alike) == 1:
                yield point, alike[0]

    def _overlay(self, axes: Axes, point: Mapping[str, Any], colour: Any) -> None:
        x, mean, sd = point[self.x], point[f"{self.y}_mean"], point.get(f"{self.y}_sd") or 0.0
        whiskers = house.whiskers([mean], [sd], log=self.logy)
        axes.errorbar(x, mean, whiskers, color=colour, elinewidth=0.6, linestyle="none", alpha=0.5, zorder=4)
        axes.plot(x, mean, color=colour, linestyle="none", zorder=4, gid="published", **_PUBLISHED)

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
            handles.append(house.mark(label, color=house.QUIET, **shape))
        if overlaid:
            handles.append(house.mark("published (mean ± sd)", color=house.QUIET, **_PUBLISHED))
        return handles

    @property
    def _sign(self) -> int:
        return labels.better(self.y) or 1

    def _name(self, line: _Line) -> str:
        """What tells a line from the others: its colour's name, and its dash's where lines of that colour differ in it."""
        others = [other for other in [*self.lines, *self.flats] if other.values[self.leading] == line.values[self.leading]]
        return house.values_label(line.values, [self.leading, *house.varied([other.values for other in others], self.dashed)])

    def _end(self, line: _Line) -> _Point:
        """The point that a line counts by: the last, or the best where x may be chosen."""
        return max(line.points, key=lambda point: self._sign * point[1]) if self.x in _CHOSEN else line.points[-1]

    def _ends(self, panel: tuple[Any, ...]) -> list[tuple[_Line, _Point]]:
        """The rivals of a panel with their ends, the best of each colour, or all where there is one colour, best first.

        Lines that stop before the last x of all are no rivals, and nor is the oracle.
        """
        lines = self._of(self.lines, panel)
        rivals = [line for line in lines if line.values.get("dictionary") not in (*self.levels, "oracle")] or lines
        last = max(line.points[-1][0] for line in rivals)
        ends = [(line, self._end(line)) for line in rivals if self.x in _CHOSEN or line.points[-1][0] == last]
        ends.sort(key=lambda end: -self._sign * end[1][1])
        best: dict[Any, tuple[_Line, _Point]] = {}
        for line, end in ends:
            best.setdefault(line.values[self.leading], (line, end))
        return ends if len(best) == 1 else [*best.values()]

    def _finding(self) -> str:
        metric, word = labels.metric_label(self.y), "lowest" if self._sign < 0 else "highest"
        ends = [self._ends(panel) for panel in self.panels]
        # In a panel of its own the oracle is nobody's rival.
        ends = [ended for ended in ends if "oracle" not in (*ended[0][0].panel, ended[0][0].values.get("dictionary"))] or ends
        (line, best), *rest = ends[0]
        at = labels.label(best[0], self.x)
        if len(ends) > 1 and any(len(ended) > 1 for ended in ends):
            return f"{metric} {self._where(ends, at)}{self._leader(ends, word)}"
        if rest:
            (first, second), lead = self._rivals(ends[0]), self._lead(best[1], rest[0][1][1])
            if not lead:
                return f"{metric} at {at} is {house.number(best[1])} with {first}, level with {second}"
            return f"{metric} at {at} is {word} with {first}: {house.number(best[1])}, {lead} {second}"
        (x0, y0, _), (x1, y1, _) = line.points[0], line.points[-1]
        start, stop, (one, other) = labels.label(x0, self.x), labels.label(x1, self.x), house.two_numbers(y0, y1)
        if len(line.points) == 1:
            return f"{metric} with {self._name(line)} is {one} at {start}"
        moved = f"stays at {one} from {start} to {stop}" if one == other else f"goes from {one} at {start} to {other} at {stop}"
        return f"{metric} with {self._name(line)} {moved}"

    def _where(self, ends: Sequence[Sequence[tuple[_Line, _Point]]], at: str) -> str:
        if len({ended[0][1][0] for ended in ends}) == 1:
            return f"at {at}"
        return f"at {'its best' if self.x in _CHOSEN else 'the last'} {labels.metric_label(self.x)}"

    def _leader(self, ends: Sequence[Sequence[tuple[_Line, _Point]]], word: str) -> str:
        """Who is ahead in most panels, or that the best are level there."""
        leaders = [
            None if len(ended) > 1 and not self._lead(ended[0][1][1], ended[1][1][1]) else self._rivals(ended)[0]
            for ended in ends
        ]
        leader = max(dict.fromkeys(leaders), key=leaders.count)
        share = f"in {leaders.count(leader)} of {len(ends)} panels"
        return f": the best two are level {share}" if leader is None else f" is {word} with {leader} {share}"

    def _rivals(self, ends: Sequence[tuple[_Line, _Point]]) -> list[str]:
        """The names of the best two, by their colours where these differ."""
        alike = len({line.values[self.leading] for line, _ in ends}) == 1 < len(ends)
        return [self._name(line) if alike else house.values_label(line.values, [self.leading]) for line, _ in ends[:2]]

    def _lead(self, best: float, second: float) -> str:
        """How far the best is from the second, in ratios on a log axis or where they are written alike; empty if level."""
        side, alike = "below" if best < second else "above", house.number(best) == house.number(second)
        if (self.logy or alike) and min(best, second) > 0:
            ratio = max(best, second) / min(best, second)
            return "" if ratio < house.LEVEL else f"{ratio:,.2g} times {side}"
        return "" if alike else f"{house.number(abs(best - second))} {side}"

    def _in_words(self, panel: tuple[Any, ...]) -> str:
        """The ends of all lines, or of the best one where there are several panels."""
        ends = self._ends(panel)
        at = "" if self.x in _CHOSEN else f"at {labels.label(ends[0][1][0], self.x)}"
        every = [(line, self._end(line)) for line in self.lines]
        told = [(line, end) for line, end in every if not at or end[0] == ends[0][1][0]] if len(self.panels) == 1 else ends[:1]
        told = told + [(line, line.points[0]) for line in self._of(self.flats, panel)]
        words = ", ".join(f"{self._name(line)} {house.format_sd(*end[1:])}" for line, end in told)
        where = ", ".join(part for part in (self.titles[panel], at) if part)
        return f"{where}: {words}" if where else words
