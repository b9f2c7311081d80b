"""A score over two columns, a panel for each dictionary."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sae_gap.figures import labels, style
from sae_gap.storage import Row, grouped

# Above this score, black text is more legible than white.
_LIGHT = 0.65
# All figures share one scale, so that readers can compare them.
_CELL: dict[str, Any] = {"marker": "s", "cmap": "viridis", "vmin": 0, "vmax": 1}
_BOUND: dict[str, Any] = {
    "color": "#D55E00",
    "linewidth": 1.8,
    "linestyle": (0, (3, 1)),
    "zorder": 0,
}


def counting_bound(row: Row) -> float | None:
    """Returns the training samples for each latent below which a dictionary is not determined, even
    with known supports.

    n samples of m dimensions give n m equations. The unit atoms have d (m - 1) unknowns and the
    codes n k, so that `n >= d (m - 1) / (m - k)`: 1,108 for 1,000 atoms in 93 dimensions with 10
    active.

    Args:
      row: a row with `input_dim` m and `sparsity` k.

    Returns:
      The least n / d, or None if m is at most k, as then no number of samples is enough.
    """
    input_dim, sparsity = row["input_dim"], row["sparsity"]
    return (input_dim - 1) / (input_dim - sparsity) if input_dim > sparsity else None


def recovery_by_samples(rows: style.Rows) -> Figure | None:
    """Draws each learner's recovery over the number of latents and the training samples for each, a
    panel for each learner.

    The dashed line is the counting bound, `sae_gap.figures.counting_bound`.

    Args:
      rows: rows of one sparsity and noise, with `num_latents`, `input_dim`, `sparsity`,
        `samples_seen` and `cosine`. The oracle's are left out.

    Returns:
      The figure, or None if there are fewer than two cells.

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
    """Draws a score from 0 to 1 over two columns of numbers: each cell shows its mean over seeds,
    and each panel a value of other columns.

    Args:
      rows: rows of a study.
      x: a column of numbers; its values stand side by side.
      y: a column of positive numbers, on a log axis.
      value: the score.
      panel: columns; each combination of their values has a panel.
      bound: maps a row to the y of a dashed line over all cells of its x and panel, or to None for
        no line. Different values give several lines.
      bound_label: the label of that line.

    Returns:
      The figure, or None if there are fewer than two cells.

    Raises:
      ValueError: a cell mixes rows of different settings, or holds a seed twice.
    """
    rows = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    means = style.means(rows, (*panel, x, y), (value,))
    if len({(mean[x], mean[y]) for mean in means}) < 2:
        return None
    sizes = sorted({mean[x] for mean in means})
    by_panel, by_column = grouped(means, panel), grouped(rows, (*panel, x))
    groups = sorted(by_panel, key=lambda key: style.ranks(key, panel))
    titles = [
        ", ".join(
            labels.label(value, name)
            for name, value in zip(panel, key, strict=True)
            if value is not None
        )
        for key in groups
    ]
    most = max(map(len, grouped(means, (*panel, x)).values()))
    sides = labels.metric_label(x), labels.metric_label(y)
    wide, tall = max(1.25, 0.36 * len(sizes)), max(1.7, 0.5 + 0.28 * most)
    figure, every = style.panels(titles, wide, tall, *sides)
    handles = []
    for axes, key in zip(every, groups, strict=True):
        axes.tick_params(length=0)
        columns = x, y, f"{value}_mean"
        at, levels, scores = zip(
            *([mean[name] for name in columns] for mean in by_panel[key]), strict=True
        )
        places = [sizes.index(size) for size in at]
        shown = axes.scatter(places, levels, 330, scores, **_CELL)
        for place, level, score in zip(places, levels, scores, strict=True):
            ink = "black" if score > _LIGHT else "white"
            text = axes.text(place, level, f"{score:.2f}", ha="center", va="center")
            text.set(fontsize=7, color=ink, zorder=5)
        for place, size in enumerate(sizes):
            for limit in filter(None, {bound(row) for row in by_column.get((*key, size), ())}):
                axes.plot([place - 0.5, place + 0.5], [limit, limit], **_BOUND)
                handles = [style.mark(bound_label, **_BOUND)]
    style.log_axis(every[0].yaxis, [mean[y] for mean in means], most=8)
    short = EngFormatter(sep="")
    every[0].set_xticks(range(len(sizes)), [short(size) for size in sizes])
    every[0].set_xlim(-0.5, len(sizes) - 0.5)
    every[0].margins(y=0.1)
    figure.colorbar(shown, ax=every, label=style.axis_label(value), aspect=40, pad=0.02)
    title = f"{labels.metric_label(value)} by {sides[0]} and {sides[1]}"
    style.finish(figure, rows, handles, title=title, more="cells: means over seeds")
    return figure
