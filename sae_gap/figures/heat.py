"""A metric over two columns at once, a panel a dictionary."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import cm
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sae_gap.figures import labels, style
from sae_gap.storage.results import Row, grouped

# The score above whose colour black is more legible than white.
_LIGHT = 0.65
_BOUND: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.8, "linestyle": (0, (3, 1))}


def counting_bound(row: Row) -> float | None:
    """The training samples for each latent below which a dictionary is not determined, even were
    the supports known.

    n samples of m dimensions give n m equations for d (m - 1) unknowns of the atoms, which are unit
    vectors, and n k of the codes, so that `n >= d (m - 1) / (m - k)`: 1,108 for 1,000 atoms in 93
    dimensions with 10 active.

    Args:
      row: with `input_dim` m and `sparsity` k.

    Returns:
      The least n / d, or None where m is no larger than k and no number of samples is enough.
    """
    input_dim, sparsity = row["input_dim"], row["sparsity"]
    return (input_dim - 1) / (input_dim - sparsity) if input_dim > sparsity else None


def recovery_by_samples(rows: style.Rows) -> Figure | None:
    """What each learner recovers, over the number of latents and the training samples for each: a
    panel a learner.

    The dashed line is the counting bound, `sae_gap.figures.counting_bound`.

    Args:
      rows: rows of one sparsity and noise; the coordinates, `num_latents`, `input_dim`, `sparsity`,
        `samples_seen` and `cosine` are read. The oracle's are left out.

    Returns:
      The figure, or None where there are not two cells to compare.

    Raises:
      ValueError: the rows of a cell mix settings, protocols or values of lambda, or hold a seed
        twice.
    """
    known = [
        {**row, "per_latent": row["samples_seen"] / row["num_latents"]}
        for row in rows
        if row.get("dictionary") != "oracle" and row.get("samples_seen") is not None
    ]
    return heat_map(
        known,
        "num_latents",
        "per_latent",
        "cosine",
        panel=("dictionary", "inference", "start", "columns"),
        bound=counting_bound,
        bound_label="counting bound",
    )


@style.styled
def heat_map(
    rows: style.Rows,
    x: str,
    y: str,
    value: str,
    *,
    panel: Sequence[str],
    bound: Callable[[Row], float | None],
    bound_label: str,
) -> Figure | None:
    """A score from 0 to 1 over two columns of numbers: each cell has its mean over seeds written
    in, each panel is a value of others.

    Args:
      rows: rows of a study.
      x: a column of numbers, its values side by side.
      y: a column of positive numbers, on a log axis.
      value: the score.
      panel: the columns of whose values each combination has a panel.
      bound: gives the y of a row at which to draw a dashed line over all cells of that x and panel,
        None for no line. Rows that give different ones have a line each.
      bound_label: what that line is.

    Returns:
      The figure, or None where there are not two cells to compare.

    Raises:
      ValueError: a cell mixes rows of different settings, or holds a seed twice.
    """
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    means = style.means(rows, (*panel, x, y), (value,))
    places = {(mean[x], mean[y]) for mean in means}
    if len(places) < 2:
        return None
    by_size: dict[float, list[float]] = {}
    for size, at in sorted(places):
        by_size.setdefault(size, []).append(at)
    by_panel, by_column = grouped(means, panel), grouped(rows, (*panel, x))
    groups = sorted(by_panel, key=lambda key: style.ranks(key, panel))
    # Panels are called by the columns in which they differ.
    varied = [
        name for name, *values in zip(panel, *groups, strict=True) if len({*values, None}) > 2
    ]
    titles = [
        ", ".join(
            labels.label(value, name)
            for name, value in zip(panel, key, strict=True)
            if name in varied and value is not None
        )
        for key in groups
    ]
    wide, most = max(1.25, 0.36 * len(by_size)), max(map(len, by_size.values()))
    sides = labels.metric_label(x), labels.metric_label(y)
    figure, every = style.panels(titles, wide, max(1.7, 0.5 + 0.25 * most), *sides)
    # All figures share one scale, so that they compare.
    colours = cm.ScalarMappable(Normalize(0, 1), "viridis")
    look: dict[str, Any] = {"norm": colours.norm, "cmap": colours.cmap, "edgecolor": "white"}
    handles = []
    for axes, key in zip(every, groups, strict=True):
        axes.tick_params(length=0)
        cells = {(mean[x], mean[y]): mean[f"{value}_mean"] for mean in by_panel[key]}
        for place, (size, levels) in enumerate(by_size.items()):
            across = [place - 0.5, place + 0.5]
            scores = np.array([cells.get((size, level), np.nan) for level in levels])
            axes.pcolormesh(across, _log_edges(levels), scores[:, None], linewidth=0.5, **look)
            for level, score in zip(levels, scores, strict=True):
                if np.isfinite(score):
                    ink = "black" if score > _LIGHT else "white"
                    text = axes.text(place, level, f"{score:.2f}", ha="center", va="center")
                    text.set(fontsize=7, color=ink, zorder=5)
            for limit in filter(None, {bound(row) for row in by_column.get((*key, size), ())}):
                axes.plot(across, [limit, limit], **_BOUND)
                handles = [style.mark(bound_label, **_BOUND)]
    style.log_axis(every[0].yaxis, [at for _, at in places], most=8)
    short = EngFormatter(sep="")
    every[0].set_xticks(range(len(by_size)), [short(size) for size in by_size])
    figure.colorbar(colours, ax=every, label=style.axis_label(value), aspect=40, pad=0.02)
    title = f"{labels.metric_label(value)} by {sides[0]} and {sides[1]}"
    style.finish(figure, rows, handles, title=title, more="cells: means over seeds")
    return figure


def _log_edges(centres: Sequence[float]) -> list[float]:
    """Edges halfway between ascending centres on a log axis, and as far beyond the outer ones."""
    middles = [(low * high) ** 0.5 for low, high in itertools.pairwise(centres)]
    if not middles:
        return [centres[0] / 2**0.5, centres[0] * 2**0.5]
    return [centres[0] ** 2 / middles[0], *middles, centres[-1] ** 2 / middles[-1]]
