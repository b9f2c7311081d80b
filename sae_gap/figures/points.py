"""Points of methods on axes, each with whiskers and a name beside it that covers nothing else."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from sae_gap.figures import labels, tables
from sae_gap.figures.style import Point, whiskers

_Side: TypeAlias = Literal["left", "center", "right"]


class Method(NamedTuple):
    """What a method reaches: means and deviations of metrics, and a row of it."""

    row: Mapping[str, Any]
    means: tuple[float, ...]
    sds: tuple[float, ...]

    @property
    def name(self) -> str:
        """What its dictionary is called."""
        return labels.label(self.row.get("dictionary") or self.row["method"])

    @property
    def colour(self) -> str:
        """The colour of its dictionary."""
        return labels.colour(self.row.get("dictionary") or self.row["method"])


def methods(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[Method]:
    """The methods that have all of the metrics; the deviation of a single seed is drawn as none."""
    first = {row["method"]: row for row in reversed(rows)}
    found = []
    for line in tables.summarise(rows, by=("method",), metrics=metrics):
        means, sds = (tuple(line[f"{metric}_{part}"] for metric in metrics) for part in ("mean", "sd"))
        if None not in means:
            found.append(Method(first[line["method"]], means, tuple(sd or 0.0 for sd in sds)))
    return found


class Points:
    """Points with whiskers on one axes, in a colour a name, each name written once beside them."""

    def __init__(self, axes: Axes, *, logx: bool = False):
        self.axes, self.logx = axes, logx
        self.places: dict[str, list[Point]] = {}
        self.colours: dict[str, str] = {}
        self.whiskers: list[tuple[Point, Point]] = []

    def add(self, name: str, colour: str, place: Point, across: float, up: float, **look: Any) -> None:
        """Draws a point, with whiskers so far to its left and right and so far up and down."""
        (x, y), (left, right) = place, whiskers(place[0], across, log=self.logx)
        self.axes.errorbar(x, y, up, [[left], [right]], color=colour, linewidth=0.8, zorder=2)
        self.axes.plot(x, y, linestyle="none", color=colour, zorder=3, **look)
        self.places.setdefault(name, []).append(place)
        self.colours[name] = colour
        self.whiskers += [((x - left, y), (x + right, y)), ((x, y - up), (x, y + up))]

    def write_names(self) -> None:
        """Writes each name at the nearest spot beside one of its points that is clear of all else; the layout must be done."""
        figure: Any = self.axes.figure
        FigureCanvasAgg(figure).draw()
        pixel, frame, to_pixels = figure.dpi / 72, self.axes.get_window_extent(), self.axes.transData.transform
        points = to_pixels([place for path in self.places.values() for place in path])
        taken = [Bbox([point - 7 * pixel, point + 7 * pixel]) for point in points]
        taken += [Bbox(to_pixels(ends)).padded(pixel) for ends in self.whiskers]
        taken += [text.get_window_extent() for text in self.axes.texts]
        angles = np.deg2rad([0, 180, 90, 270, 45, 135, 225, 315])
        offsets = [(reach * np.cos(angle), reach * np.sin(angle)) for reach in (10, 16, 24, 34, 46, 60, 80) for angle in angles]

        def clashes(box: Bbox) -> int:
            return box.count_overlaps(taken) + 1_000 * (not (frame.contains(*box.min) and frame.contains(*box.max)))

        for name, path in self.places.items():
            text = self.axes.annotate(name, path[0], (0, 0), textcoords="offset points", va="center", zorder=6)
            text.set(color=self.colours[name], fontweight="bold")
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8})
            spots = [*itertools.product(offsets, zip(path, to_pixels(path), strict=True))]
            # Measured once on each side, since setting a text takes longer than all else here.
            covered = {side: _extent(text, side) for side in get_args(_Side)}
            boxes = [
                covered[_side(offset)].translated(*(at - to_pixels(path[0]) + pixel * np.array(offset))).padded(pixel)
                for offset, (_, at) in spots
            ]
            least = np.argmin([clashes(box) for box in boxes])
            offset, (text.xy, _) = spots[least]
            text.set(position=offset, ha=_side(offset))
            taken.append(boxes[least])


def _side(offset: Point) -> _Side:
    """Which side of a text is at its place, so that it leads away from the point that it names."""
    return "left" if offset[0] > 1 else "right" if offset[0] < -1 else "center"


def _extent(text: Annotation, side: _Side) -> Bbox:
    text.set_horizontalalignment(side)
    return text.get_window_extent()
