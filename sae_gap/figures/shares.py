"""Along each size of a study: shares of each SAE's distance to the oracle, stacked."""

import collections

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels, style, tables
from sae_gap.figures.decompose import decompositions
from sae_gap.figures.stairs import STEPS, steps_of
from sae_gap.figures.tables import Lines
from sae_gap.storage.results import CELL


@style.styled
def loss_shares(rows: style.Rows, metric: str = "mcc_ood") -> Figure | None:
    """Draws the parts of each SAE's distance to the oracle as shares of it, a panel for each size
    that varies while the others keep their most common value.

    The share of a part is its mean over seeds, divided by the sum of these; see
    `figures.decompose`. A dictionary part below zero, of a dictionary that serves better than the
    true one, counts as zero.

    Args:
      rows: rows with `dictionary`, `inference`, the sizes and the metric.
      metric: the score, a column of the rows; more is better.

    Returns:
      The figure, or None if no size varies among the rows that have parts.

    Raises:
      ValueError: two rows of one cell have the same codes and seed.
    """
    rows = list(rows)
    lines = tables.summarise(decompositions(rows, metric), by=("method", "dictionary", *CELL))
    cells = {tuple(line[size] for size in CELL) for line in lines}
    base = {
        size: collections.Counter(values).most_common(1)[0][0]
        for size, values in zip(CELL, zip(*cells, strict=True), strict=False)
    }
    panels = {
        size: [
            line for line in lines if all(line[name] == base[name] for name in CELL if name != size)
        ]
        for size in base
    }
    panels = {size: shown for size, shown in panels.items() if len({x[size] for x in shown}) > 1}
    if not panels:
        return None
    figure = Figure(figsize=(style.WIDTH, 0.8 + 1.7 * len(panels)))
    drawn = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for axes, (size, shown) in zip(drawn, panels.items(), strict=True):
        _stacks(axes, size, shown)
        others = [labels.label(base[name], name) for name in CELL if name != size]
        values = sorted({line[size] for line in shown})
        along = f"{labels.metric_label(size)}: {', '.join(f'{value:,}' for value in values)}"
        axes.set_title(f"{along} ({', '.join(others)})", loc="left")
    figure.supylabel("share of the distance to the oracle, %")
    known = {part for line in lines for part in steps_of(line)[1:]}
    handles = [style.swatch(*look) for part, look in STEPS.items() if part in known]
    title = f"Shares of each SAE's distance to the oracle in {labels.metric_label(metric)}"
    style.finish(figure, rows, handles, title=title, more="a bar a size, growing to the right")
    return figure


def _stacks(axes: Axes, size: str, lines: Lines) -> None:
    names = [*dict.fromkeys(line["dictionary"] for line in lines)]
    values = sorted({line[size] for line in lines})
    for line in lines:
        wide = 0.9 / len(values)
        left = names.index(line["dictionary"]) - 0.45 + wide * values.index(line[size])
        parts = {part: max(0.0, line[f"{part}_mean"]) for part in steps_of(line)[1:]}
        bottom = 0.0
        for part, amount in parts.items():
            height = 100 * amount / (sum(parts.values()) or 1.0)
            axes.bar(left, height, 0.92 * wide, bottom, align="edge", color=STEPS[part][1])
            bottom += height
    shown = [labels.label(name).removesuffix(" SAE") for name in names]
    style.name_along(axes.xaxis, shown)
    axes.tick_params(axis="x", labelsize=7, labelrotation=20)
    axes.set_ylim(0, 100)
