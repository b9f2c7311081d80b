"""A metric over two columns at once, a panel a dictionary."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_gap.figures import labels, log_axes, style, tables

_BOUND: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.8, "linestyle": (0, (3, 1))}
_ENOUGH = 0.9


def counting_bound(row: Mapping[str, Any]) -> float | None:
    """The training samples for each latent below which a dictionary is not determined, even were the supports known.

    n samples of m dimensions give n m equations for d (m - 1) unknowns of the atoms, which are unit vectors, and n k of the
    codes, so that `n >= d (m - 1) / (m - k)`: 1,108 for 1,000 atoms in 93 dimensions with 10 active.

    Args:
      row: with `input_dim` m and `sparsity` k.

    Returns:
      The least n / d, or None where m is no larger than k and no number of samples is enough.
    """
    input_dim, sparsity = row["input_dim"], row["sparsity"]
    return (input_dim - 1) / (input_dim - sparsity) if input_dim > sparsity else None


@style.styled
def recovery_by_samples(rows: style.Rows) -> Figure | None:
    """What each learner recovers, over the number of latents and the training samples for each: a panel a learner.

    The dashed line is the counting bound, `sae_gap.figures.counting_bound`.

    Args:
      rows: rows of one sparsity and noise; the coordinates, `num_latents`, `input_dim`, `sparsity`, `samples_seen` and
        `cosine` are read. The oracle's are left out.

    Returns:
      The figure, or None where there are not two cells to compare.

    Raises:
      ValueError: the rows of a cell mix settings, protocols or values of lambda, or hold a seed twice.
    """
    known = [row for row in rows if row.get("dictionary") != "oracle" and row.get("samples_seen") is not None]
    known = [{**row, "per_latent": row["samples_seen"] / row["num_latents"]} for row in known]
    panel = ("dictionary", "inference", "start", "columns")
    return heat_map(
        known, "num_latents", "per_latent", "cosine", panel=panel, bound=counting_bound, bound_label="the counting bound"
    )


@style.styled
def heat_map(
    rows: style.Rows,
    x: str,
    y: str,
    value: str,
    *,
    panel: str | Sequence[str],
    bound: Callable[[Mapping[str, Any]], float | None] | None = None,
    bound_label: str = "bound",
) -> Figure | None:
    """A metric over two columns of numbers: each cell has its mean over seeds written in, each panel is a value of others.

    Where all x have the same y, cells are of one height; where not, y is on a log axis.

    Args:
      rows: rows of a study.
      x: a column of numbers, its values side by side.
      y: a column of positive numbers.
      value: the metric.
      panel: the column, or columns, of whose values each has a panel.
      bound: gives the y of a row at which to draw a dashed line over all cells of that x and panel, or None for no line. Rows
        that give different ones have a line each.
      bound_label: what that line is.

    Returns:
      The figure, or None where there are not two cells to compare.

    Raises:
      ValueError: a cell mixes rows of different settings, or holds a seed twice.
    """
    panelled = (panel,) if isinstance(panel, str) else tuple(panel)
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    mean = f"{value}_mean"
    summary = tables.summarise(rows, by=tuple(dict.fromkeys((*panelled, x, y))), metrics=(value,))
    found = [line for line in summary if line[mean] is not None]
    if len({(line[x], line[y]) for line in found}) < 2:
        return None
    panels = [dict(values) for values in dict.fromkeys(tuple((name, line[name]) for name in panelled) for line in found)]
    panels.sort(key=lambda values: [labels.rank(entry, name) for name, entry in values.items()])
    titles = style.titles(panels, panelled)
    scale = _Scale([(line[x], line[y]) for line in found])
    colours = matplotlib.cm.ScalarMappable(_norm([line[mean] for line in found], value), "viridis")

    wide = max(1.25, 0.36 * len(scale.columns), style.inches(titles, 8) + 0.1)
    across, down = style.layout(len(panels), int((style.WIDTH - 1.2) / wide))
    tall = max(1.7, 0.17 * scale.height + 0.5)
    figure = Figure(figsize=(style.WIDTH if across > 1 or wide > 3 else 5.4, 1.7 + tall * down))
    every = style.panels(figure, titles, across)
    scores: dict[str, np.ndarray] = {}
    bounded = False
    for axes, title, values in zip(every, titles, panels, strict=True):
        axes.tick_params(length=0)
        mine = [line for line in found if _has(line, values)]
        scores[title] = np.array([line[mean] for line in mine])
        for line in mine:
            _cell(axes, scale, (line[x], line[y]), line[mean], colours)
        limits = {(row[x], bound(row)) for row in rows if _has(row, values)} if bound is not None else set()
        for size, limit in sorted((size, limit) for size, limit in limits if limit is not None):
            height, place = scale.height_of(limit), scale.columns.index(size)
            if height is not None:
                axes.plot([place - 0.5, place + 0.5], [height] * 2, **_BOUND)
                bounded = True
    scale.frame(every[0])
    figure.colorbar(colours, ax=every, label=style.axis_label(value), aspect=20 * down, pad=0.02)
    # The oracle is no rival of what has to learn its dictionary.
    learned = [title for title, values in zip(titles, panels, strict=True) if values.get("dictionary") != "oracle"]
    finding, words = _in_words(scores, learned or titles, value)
    dashed = f"Dashed: {bound_label}" if bounded else ""
    handles = [Line2D([], [], label=bound_label, **_BOUND)] if bounded else []
    options = {"more": "cells: means over seeds", "label": labels.metric_label(x), "side": labels.metric_label(y)}
    style.finish(figure, finding, rows, words, dashed, handles=handles, **options)
    return figure


def _has(row: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(row.get(name) == entry for name, entry in values.items())


class _Scale:
    """Where cells lie: columns side by side, and rows either of one height or on a log axis."""

    def __init__(self, cells: Sequence[tuple[Any, Any]]):
        by_column = {size: sorted({y for x, y in cells if x == size}) for size in sorted({x for x, _ in cells})}
        self.columns = [*by_column]
        self.levels = sorted({y for _, y in cells})
        self.even = len({tuple(values) for values in by_column.values()}) == 1
        self.height = len(self.levels) if self.even else 1.5 * max(map(len, by_column.values()))
        self.edges: dict[tuple[Any, Any], tuple[float, float]] = {}
        for size, values in by_column.items():
            ends = np.arange(len(values) + 1) - 0.5 if self.even else log_axes.log_edges(values)
            self.edges |= {(size, level): pair for level, pair in zip(values, itertools.pairwise(ends), strict=True)}
        self.low, self.high = np.min([*self.edges.values()]), np.max([*self.edges.values()])

    def height_of(self, level: float) -> float | None:
        """Where a value of y lies on the axis; None if that is beyond the middles of all cells of one height."""
        if self.even:
            inside = self.levels[0] <= level <= self.levels[-1]
            return float(np.interp(np.log(level), np.log(self.levels), range(len(self.levels)))) if inside else None
        self.low, self.high = min(self.low, level), max(self.high, level)
        return level

    def frame(self, axes: Axes) -> None:
        axes.set_xlim(-0.5, len(self.columns) - 0.5)
        names = [f"{size:,}" for size in self.columns]
        if len(names) > 3 and max(map(len, names)) > 4:
            names = [_short(size) for size in self.columns]
        axes.set_xticks(range(len(names)), names)
        if self.even:
            axes.set_ylim(self.low, self.high)
            axes.set_yticks(range(len(self.levels)), [f"{level:,g}" for level in self.levels])
        else:
            axes.set(yscale="log", ylim=(self.low * 0.95, self.high * 1.05))
            log_axes.round_ticks(axes.yaxis)


def _short(size: float) -> str:
    return f"{size / 1e6:g}M" if size >= 1e6 else f"{size / 1e3:g}k" if size >= 1e3 else f"{size:g}"


def _norm(means: Sequence[float], value: str) -> matplotlib.colors.Normalize:
    low, high = min(means), max(means)
    if labels.perfect(value) == 1 and low >= 0 and high <= 1:
        return matplotlib.colors.Normalize(0, 1)
    if low > 0 and high > 100 * low:
        return matplotlib.colors.LogNorm(low, high)
    return matplotlib.colors.Normalize(low, high)


def _cell(axes: Axes, scale: _Scale, cell: tuple[Any, Any], mean: float, colours: Any) -> None:
    place, (low, high), shade = scale.columns.index(cell[0]), scale.edges[cell], colours.to_rgba(mean)
    axes.bar(place, high - low, 1, low, color=shade, edgecolor="white", linewidth=0.5)
    # Dark ink on light cells: the luminance that eyes see, which is not linear in the colour.
    ink = "black" if np.dot(np.array(shade[:3]) ** 2.2, (0.2126, 0.7152, 0.0722)) > 0.25 else "white"
    middle = (low + high) / 2 if scale.even else (low * high) ** 0.5
    text = axes.text(place, middle, style.number(mean), ha="center", va="center", fontsize=7, color=ink, zorder=5)
    text.set_path_effects(style.halo(shade))


def _in_words(scores: Mapping[str, np.ndarray], rivals: Sequence[str], value: str) -> tuple[str, str]:
    """The finding, and each panel's share of it."""
    metric, sign = labels.metric_label(value), labels.better(value) or 1
    averages = {name: float(means.mean()) for name, means in scores.items()}
    alone = len(rivals) == 1
    if labels.perfect(value) != 1:
        best = max(rivals, key=lambda name: sign * averages[name])
        word = "a mean" if alone else "the best" if labels.better(value) else "the largest"
        every = ", ".join(f"{name} {style.number(average)}" for name, average in averages.items())
        finding = f"{best} has {word} {metric}: {style.number(averages[best])} on average over the cells"
        return finding, f"Mean over the cells: {every}"
    counts = {name: int(np.sum(means > _ENOUGH)) for name, means in scores.items()}
    shares = {name: f"{count} of {len(scores[name])}" for name, count in counts.items()}
    best = max(rivals, key=lambda name: (counts[name], averages[name]))
    level = sum(shares[name] == shares[best] and np.allclose(averages[name], averages[best]) for name in rivals) - 1
    most = f"{best} and {level} more recover the most:" if level else f"{best} recovers the most:"
    finding = f"{f'{best} has' if alone else most} {metric} above {_ENOUGH} in {shares[best]} cells"
    if not counts[best]:
        finding = f"{metric} is above {_ENOUGH} in no cell; {best} comes closest with {style.number(scores[best].max())}"
    return finding, f"Cells above {_ENOUGH}: {', '.join(f'{name} {share}' for name, share in shares.items())}"
