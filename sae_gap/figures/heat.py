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

_COLOURS = matplotlib.colormaps["viridis"]
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
def recovery_by_samples(rows: style.Rows, metric: str = "cosine") -> Figure | None:
    """What each learner recovers, over the number of latents and the training samples for each: a panel a learner.

    The dashed line is the counting bound, `sae_gap.figures.counting_bound`.

    Args:
      rows: rows of one sparsity and noise; the coordinates, `num_latents`, `input_dim`, `sparsity`, `samples_seen` and the
        metric are read. The oracle's are left out.
      metric: a column of the rows of which more is better and 1 is perfect.

    Returns:
      The figure, or None where there are not two cells to compare.

    Raises:
      ValueError: the rows of a cell mix settings, protocols or values of lambda, or hold a seed twice.
    """
    known = [row for row in rows if row.get("dictionary") != "oracle" and row.get("samples_seen") is not None]
    known = [{**row, "per_latent": row["samples_seen"] / row["num_latents"]} for row in known]
    panel = ("dictionary", "inference", "start", "columns")
    return heat_map(
        known, "num_latents", "per_latent", metric, panel=panel, bound=counting_bound, bound_label="the counting bound"
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
    summary = tables.summarise(rows, by=tuple(dict.fromkeys((*panelled, x, y))), metrics=(value,))
    found = [line for line in summary if line[f"{value}_mean"] is not None]
    if len({(line[x], line[y]) for line in found}) < 2:
        return None
    panels = [dict(values) for values in dict.fromkeys(tuple((name, line[name]) for name in panelled) for line in found)]
    panels.sort(key=lambda values: [labels.rank(entry, name) for name, entry in values.items()])
    told = style.varied(panels, panelled)
    titles = [style.values_label(values, told) for values in panels]
    scale = _Scale(found, x, y)
    colours = matplotlib.cm.ScalarMappable(_norm(found, value), _COLOURS)

    wide = max(1.25, 0.36 * len(scale.columns), style.inches(titles, 8) + 0.1)
    across = max(1, min(len(panels), int((style.WIDTH - 1.2) / wide)))
    down = -(-len(panels) // across)
    across = -(-len(panels) // down)
    tall = max(1.7, 0.17 * scale.height + 0.5)
    figure = Figure(figsize=(style.WIDTH if across > 1 or wide > 3 else 5.4, 1.7 + tall * down))
    every = style.panels(figure, titles, across)
    bounded = False
    for axes, values in zip(every, panels, strict=True):
        axes.tick_params(length=0)
        for place, size in enumerate(scale.columns):
            mine = [line for line in found if line[x] == size and _has(line, values)]
            _column(axes, place, scale, {line[y]: line[f"{value}_mean"] for line in mine}, colours)
            limits = {bound(row) for row in rows if row[x] == size and _has(row, values)} if bound is not None else set()
            for limit in sorted(limit for limit in limits if limit is not None):
                if (height := scale.position(limit)) is not None:
                    axes.plot([place - 0.5, place + 0.5], [height] * 2, **_BOUND)
                    bounded = True
    scale.frame(every[0])
    figure.colorbar(colours, ax=every, label=style.axis_label(value), aspect=20 * down, pad=0.02)
    scores = {
        title: np.array([line[f"{value}_mean"] for line in found if _has(line, values)])
        for title, values in zip(titles, panels, strict=True)
    }
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

    def __init__(self, found: Sequence[Mapping[str, Any]], x: str, y: str):
        self.columns = sorted({line[x] for line in found})
        by_column = {size: sorted({line[y] for line in found if line[x] == size}) for size in self.columns}
        self.levels = sorted({line[y] for line in found})
        self.x, self.even = x, len({tuple(values) for values in by_column.values()}) == 1 or self.levels[0] <= 0
        self.height = len(self.levels) if self.even else 1.5 * max(map(len, by_column.values()))
        self.edges: dict[Any, dict[Any, tuple[float, float]]] = {}
        for size, values in by_column.items():
            if self.even:
                self.edges[size] = {level: (place - 0.5, place + 0.5) for place, level in enumerate(self.levels)}
            else:
                ends = log_axes.log_edges(values)
                self.edges[size] = dict(zip(values, itertools.pairwise(ends), strict=True))
        ends = [end for cells in self.edges.values() for pair in cells.values() for end in pair]
        self.low, self.high = min(ends), max(ends)

    def position(self, level: float) -> float | None:
        """Where a value of y lies on the axis; None if that is beyond all cells."""
        if not self.even:
            self.low, self.high = min(self.low, level), max(self.high, level)
            return level
        if len(self.levels) < 2 or self.levels[0] <= 0 or level <= 0:
            return None
        # Between the middles of two cells, and as far beyond the outer ones, as on a log axis.
        logs = np.log(self.levels)
        ends = np.concatenate([[1.5 * logs[0] - 0.5 * logs[1]], logs, [1.5 * logs[-1] - 0.5 * logs[-2]]])
        places = np.concatenate([[-0.5], np.arange(len(logs)), [len(logs) - 0.5]])
        return float(np.interp(np.log(level), ends, places)) if ends[0] <= np.log(level) <= ends[-1] else None

    def frame(self, axes: Axes) -> None:
        axes.set_xlim(-0.5, len(self.columns) - 0.5)
        labels = [f"{size:,}" if isinstance(size, int) else f"{size:g}" for size in self.columns]
        if len(labels) > 3 and max(map(len, labels)) > 4:
            labels = [_short(size) for size in self.columns]
        axes.set_xticks(range(len(labels)), labels)
        if self.even:
            axes.set_ylim(self.low, self.high)
            axes.set_yticks(range(len(self.levels)), [f"{level:,g}" for level in self.levels])
        else:
            axes.set(yscale="log", ylim=(self.low * 0.95, self.high * 1.05))
            log_axes.round_ticks(axes.yaxis)


def _short(size: float) -> str:
    return f"{size / 1e6:g}M" if size >= 1e6 else f"{size / 1e3:g}k" if size >= 1e3 else f"{size:g}"


def _norm(found: Sequence[Mapping[str, Any]], value: str) -> matplotlib.colors.Normalize:
    means = [line[f"{value}_mean"] for line in found]
    if labels.perfect(value) == 1 and min(means) >= 0 and max(means) <= 1:
        return matplotlib.colors.Normalize(0, 1)
    if min(means) > 0 and max(means) > 100 * min(means):
        return matplotlib.colors.LogNorm(min(means), max(means))
    return matplotlib.colors.Normalize(min(means), max(means) if max(means) > min(means) else min(means) + 1)


def _column(axes: Axes, place: int, scale: _Scale, cells: Mapping[Any, float], colours: Any) -> None:
    edges = scale.edges[scale.columns[place]]
    for level, mean in cells.items():
        low, high = edges[level]
        middle = (low + high) / 2 if scale.even else (low * high) ** 0.5
        shade = colours.to_rgba(mean)
        axes.bar(place, high - low, 1, low, color=shade, edgecolor="white", linewidth=0.5)
        # Dark ink on light cells: the luminance that eyes see, which is not linear in the colour.
        light = np.dot(np.array(shade[:3]) ** 2.2, (0.2126, 0.7152, 0.0722)) > 0.25
        ink = "black" if light else "white"
        text = axes.text(place, middle, style.number(mean), ha="center", va="center", fontsize=7, color=ink, zorder=5)
        text.set_path_effects(style.halo(shade))


def _in_words(scores: Mapping[str, np.ndarray], rivals: Sequence[str], value: str) -> tuple[str, str]:
    """The finding, and each panel's share of it."""
    metric, sign = labels.metric_label(value), labels.better(value) or 1
    if labels.perfect(value) == 1 and sign > 0:
        best = max(rivals, key=lambda name: (np.sum(scores[name] > _ENOUGH), scores[name].mean()))
        shares = {name: f"{np.sum(means > _ENOUGH)} of {len(means)}" for name, means in scores.items()}
        above = f"{metric} above {_ENOUGH} in {shares[best]} cells"
        level = (
            sum(shares[name] == shares[best] and np.allclose(scores[name].mean(), scores[best].mean()) for name in rivals) - 1
        )
        if not np.any(scores[best] > _ENOUGH):
            finding = f"{metric} is above {_ENOUGH} in no cell; {best} comes closest with {style.number(scores[best].max())}"
        else:
            most = f"{best} and {level} more recover the most" if level else f"{best} recovers the most"
            finding = f"{most}: {above}" if len(rivals) > 1 else f"{best} has {above}"
        return finding, f"Cells above {_ENOUGH}: {', '.join(f'{name} {share}' for name, share in shares.items())}"
    averages = {name: float(means.mean()) for name, means in scores.items()}
    best = max(rivals, key=lambda name: sign * averages[name])
    word = ("best" if labels.better(value) else "largest") if len(rivals) > 1 else "mean"
    finding = f"{best} has {'the' if len(rivals) > 1 else 'a'} {word} {metric}: {style.number(averages[best])}"
    every = ", ".join(f"{name} {style.number(average)}" for name, average in averages.items())
    return f"{finding} on average over the cells", f"Mean over the cells: {every}"
