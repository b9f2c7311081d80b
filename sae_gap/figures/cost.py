"""What inference leaves of the gap and what it recovers, against what it costs."""

from typing import Any

from matplotlib import patheffects
from matplotlib.figure import Figure

from sae_gap.figures import labels, style

_MARKERS = {"relu": "o", "topk": "^", "jumprelu": "v", "lista": "D", "fista": "s", "ista": "P", "omp": "X", "mp": "p"}
# What a family of inferences varies, and so what stands beside each of its points.
_VARIED = {"lista": ("depth", "layers"), "fista": ("iterations",) * 2, "ista": ("iterations",) * 2}
_UNTRAINED = ("fista", "ista")


@style.styled
def budget(rows: style.Rows) -> Figure | None:
    """What inference on one dictionary leaves of the gap, and what it recovers, out of distribution and against its cost.

    Args:
      rows: rows of one setting and dictionary with `inference`, `flops`, `relative_gap_ood` and `mcc_ood`, and `depth` or
        `iterations` where an inference has them. The certified lasso, without `flops`, is drawn as a level.

    Returns:
      The figure, or None where no inference has a cost and a gap.

    Raises:
      ValueError: the rows mix dictionaries, settings, protocols or values of lambda, or hold a seed twice.
    """
    rows, metrics = list(rows), ("relative_gap_ood", "mcc_ood")
    means = style.means(rows, ("inference", "depth", "iterations", "flops"), metrics)
    lines = sorted((mean for mean in means if mean["flops"]), key=lambda mean: mean["flops"])
    if not lines:
        return None
    figure = Figure(figsize=(style.WIDTH, 7.0))
    panels = figure.subplots(2, 1, sharex=True)
    for family in sorted({line["inference"] for line in lines}, key=lambda name: labels.rank(name, "inference")):
        mine, (column, unit) = [line for line in lines if line["inference"] == family], _VARIED.get(family, ("", ""))
        label = labels.label(family, "inference") + (f" ({unit})" if unit else "")
        look: dict[str, Any] = {
            "color": labels.colour(family, "inference"),
            "marker": _MARKERS.get(family, "*"),
            "label": label,
        }
        for axes, metric in zip(panels, metrics, strict=True):
            cost, y, sd = zip(*((line["flops"], line[f"{metric}_mean"], line[f"{metric}_sd"]) for line in mine), strict=True)
            axes.errorbar(cost, y, sd, elinewidth=0.8, markersize=5, linewidth=1, zorder=3, **look)
            # Each line's numbers on its outer side: a trained network lies below in the gap and above in the MCC.
            right = family in _UNTRAINED
            up = right == (metric == metrics[0])
            side: dict[str, Any] = {"ha": "left" if right else "right", "va": "bottom" if up else "top"}
            for line, place in zip(mine if column else (), zip(cost, y, strict=True), strict=False):
                offset = (4 if right else -4), (4 if up else -4)
                text = axes.annotate(line[column], place, offset, textcoords="offset points", **side)
                text.set(
                    fontsize=7, color=look["color"], path_effects=[patheffects.withStroke(linewidth=2, foreground="white")]
                )
    for axes, metric in zip(panels, metrics, strict=True):
        axes.margins(0.1)
        axes.set_ylabel(style.axis_label(metric))
    style.log_axis(panels[1].xaxis, [line["flops"] for line in lines])
    style.log_axis(panels[0].yaxis, [line[f"{metrics[0]}_mean"] for line in lines])
    panels[1].set_xlabel(labels.metric_label("flops"))
    lasso = next((mean for mean in means if mean["inference"] == "lasso" and not mean["flops"]), None)
    if lasso is not None:
        style.level(panels[1], lasso["mcc_ood_mean"], label=labels.label("lasso", "inference"))
    title = "Amortisation gap and MCC by floating-point operations"
    handles, _ = panels[1].get_legend_handles_labels()
    style.finish(figure, title, rows, spread="whiskers", handles=handles)
    return figure
