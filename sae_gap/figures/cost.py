"""What inference leaves of the gap and what it recovers, against what it costs."""

from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import labels, log_axes, style, tables

_MARKERS = {"relu": "o", "topk": "^", "jumprelu": "v", "lista": "D", "fista": "s", "ista": "P", "omp": "X", "mp": "p"}
# What a family of inferences varies, and so what stands beside each of its points.
_VARIED = {"lista": "depth", "fista": "iterations", "ista": "iterations"}
_UNITS = {"depth": "layers", "iterations": "iterations"}
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
    rows = list(rows)
    metrics = ("relative_gap_ood", "mcc_ood")
    by = ("inference", "depth", "iterations", "flops")
    summary = tables.summarise(rows, by=by, metrics=metrics)
    found = [line for line in summary if line["flops"] and line["relative_gap_ood_mean"] is not None]
    if not found:
        return None
    families = sorted({line["inference"] for line in found}, key=lambda name: labels.rank(name, "inference"))
    figure = Figure(figsize=(style.WIDTH, 7.0))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, metrics, strict=True):
        for family in families:
            lines = [line for line in found if line["inference"] == family and line[f"{metric}_mean"] is not None]
            lines.sort(key=lambda line: line["flops"])
            x, y = [line["flops"] for line in lines], [line[f"{metric}_mean"] for line in lines]
            sd = [line[f"{metric}_sd"] or 0.0 for line in lines]
            below = [min(size, 0.9 * mean) if metric == metrics[0] else size for size, mean in zip(sd, y, strict=True)]
            colour, varied = labels.colour(family, "inference"), _VARIED.get(family, "")
            label = labels.label(family, "inference") + (f" ({_UNITS[varied]})" if varied else "")
            look: dict[str, Any] = {"color": colour, "marker": _MARKERS.get(family, "*"), "label": label}
            zorder = 2 if family in _UNTRAINED else 3
            axes.errorbar(x, y, [below, sd], elinewidth=0.8, markersize=5, linewidth=1, zorder=zorder, **look)
            for line, place in zip(lines, zip(x, y, strict=True), strict=True):
                # Each curve's numbers on its outer side: a trained network lies below in the gap and above in the MCC.
                side = 1 if family in _UNTRAINED else -1
                up = side if axes is panels[0] else -side
                text = "" if line.get(varied) is None else str(line[varied])
                mark = axes.annotate(text, place, (5 * side, 5 * up), textcoords="offset points")
                mark.set(
                    ha="left" if side > 0 else "right",
                    va="bottom" if up > 0 else "top",
                    color=colour,
                    fontsize=7,
                    path_effects=style.halo("white"),
                )
        axes.margins(0.1)
    panels[0].set(xscale="log", yscale="log", ylabel=labels.metric_label(metrics[0]))
    log_axes.round_ticks(panels[0].xaxis)
    log_axes.round_ticks(panels[0].yaxis)
    panels[1].set_xlabel(labels.metric_label("flops"))
    panels[1].set_ylabel(style.axis_label(metrics[1]))
    level = next((line["mcc_ood_mean"] for line in summary if line["inference"] == "lasso" and not line["flops"]), None)
    if level is not None:
        panels[1].axhline(
            level, color="black", linewidth=1, linestyle=style.DASHED, zorder=1, label=labels.label("lasso", "inference")
        )
    trained = [line for line in found if line["inference"] not in _UNTRAINED]
    best = min(trained or found, key=lambda line: line["relative_gap_ood_mean"])
    closest = f"{_name(best)} comes closest of the {'encoders' if trained else 'budgets'}"
    finding = f"{closest}: {best['relative_gap_ood_mean']:.1%} above the optimum"
    style.head(figure, finding, rows, deviation="whiskers")
    style.foot(figure, panels[1].get_legend_handles_labels()[0])
    every = ", ".join(f"{_name(line)} {line['relative_gap_ood_mean']:.1%}" for line in found)
    style.caption(figure, finding, f"{labels.metric_label(metrics[0])}: {every}")
    return figure


def _name(line: Any) -> str:
    label, count = labels.label(line["inference"], "inference"), line.get(_VARIED.get(line["inference"], ""))
    return label if count is None else f"{label}-{count}"
