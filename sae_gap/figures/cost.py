"""What inference leaves of the gap and what it recovers, against what it costs."""

from typing import Any

from matplotlib import patheffects
from matplotlib.figure import Figure

from sae_gap.figures import labels, style

_MARKERS = {
    "relu": "o",
    "topk": "^",
    "jumprelu": "v",
    "lista": "D",
    "fista": "s",
    "ista": "P",
    "omp": "X",
    "mp": "p",
}
# What a family of inferences varies, and so what stands beside each of its points.
_VARIED = {"lista": ("depth", "layers"), "fista": ("iterations",) * 2, "ista": ("iterations",) * 2}
_UNTRAINED = ("fista", "ista")


@style.styled
def budget(rows: style.Rows) -> Figure | None:
    """What inference on one dictionary leaves of the gap, and what it recovers, out of distribution
    and against its cost.

    Args:
      rows: rows of one setting and dictionary with `inference`, `flops`, `relative_gap_ood` and
        `mcc_ood`, and `depth` or `iterations` where an inference has them. The certified lasso,
        without `flops`, is drawn as a level.

    Returns:
      The figure, or None where no inference has a cost and a gap.

    Raises:
      ValueError: the rows mix dictionaries, settings, protocols or values of lambda, or hold a seed
        twice.
    """
    rows, metrics = list(rows), ("relative_gap_ood", "mcc_ood")
    means = style.means(rows, ("inference", "depth", "iterations", "flops"), metrics)
    lines = sorted((mean for mean in means if mean["flops"]), key=lambda mean: mean["flops"])
    if not lines:
        return None
    figure = Figure(figsize=(style.WIDTH, 7.0))
    panels = figure.subplots(2, 1, sharex=True)
    families = {line["inference"] for line in lines}
    for family in sorted(families, key=lambda name: labels.rank(name, "inference")):
        mine = [line for line in lines if line["inference"] == family]
        column, unit = _VARIED.get(family, ("", ""))
        label = labels.label(family, "inference") + (f" ({unit})" if unit else "")
        colour, marker = labels.colour(family, "inference"), _MARKERS.get(family, "*")
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1}
        right = family in _UNTRAINED
        for axes, metric in zip(panels, metrics, strict=True):
            columns = "flops", f"{metric}_mean", f"{metric}_sd"
            cost, y, sd = ([line[name] for line in mine] for name in columns)
            axes.errorbar(cost, y, sd, elinewidth=0.8, label=label, zorder=3, **look)
            # Numbers on the outer side: a trained network lies below in the gap, above in the MCC.
            up = right == (metric == metrics[0])
            side = {"ha": "left" if right else "right", "va": "bottom" if up else "top"}
            offset = 4 if right else -4, 4 if up else -4
            for line, *place in zip(mine if column else (), cost, y, strict=False):
                text = axes.annotate(line[column], place, offset, textcoords="offset points")
                halo = patheffects.withStroke(linewidth=2, foreground="white")
                text.set(fontsize=7, color=colour, path_effects=[halo], **side)
    for axes, metric in zip(panels, metrics, strict=True):
        axes.margins(0.1)
        axes.set_ylabel(style.axis_label(metric))
    style.log_axis(panels[1].xaxis, [line["flops"] for line in lines])
    style.log_axis(panels[0].yaxis, [line[f"{metrics[0]}_mean"] for line in lines])
    panels[1].set_xlabel(labels.metric_label("flops"))
    for mean in means:
        if mean["inference"] == "lasso" and not mean["flops"]:
            style.level(panels[1], mean["mcc_ood_mean"], label=labels.label("lasso", "inference"))
    title = "Amortisation gap and MCC by floating-point operations"
    handles, _ = panels[1].get_legend_handles_labels()
    style.finish(figure, title, rows, spread="whiskers", handles=handles)
    return figure
