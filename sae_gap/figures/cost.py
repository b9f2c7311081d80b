"""What inference leaves of the gap and what it recovers, against what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
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
    summary = tables.summarise(rows, by=("inference", "depth", "iterations", "flops"), metrics=metrics)
    found = [line for line in summary if line["flops"] and line["relative_gap_ood_mean"] is not None]
    if not found:
        return None
    families = sorted({line["inference"] for line in found}, key=lambda name: labels.rank(name, "inference"))
    figure = Figure(figsize=(style.WIDTH, 7.0))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, metrics, strict=True):
        for family in families:
            lines = [line for line in found if line["inference"] == family and line[f"{metric}_mean"] is not None]
            _line(axes, family, sorted(lines, key=lambda line: line["flops"]), metric)
        axes.margins(0.1)
    panels[0].set(xscale="log", yscale="log", ylabel=labels.metric_label(metrics[0]))
    log_axes.round_ticks(panels[0].xaxis)
    log_axes.round_ticks(panels[0].yaxis)
    panels[1].set(xlabel=labels.metric_label("flops"), ylabel=style.axis_label(metrics[1]))
    best_codes = next((line["mcc_ood_mean"] for line in summary if line["inference"] == "lasso" and not line["flops"]), None)
    if best_codes is not None:
        name = labels.label("lasso", "inference")
        panels[1].axhline(best_codes, color="black", linewidth=1, linestyle=style.DASHED, zorder=1, label=name)
    trained = [line for line in found if line["inference"] not in _UNTRAINED]
    finding = _finding(trained or found, "encoders" if trained else "budgets")
    told = ", ".join(f"{_name(line)} {line['relative_gap_ood_mean']:.1%}" for line in found)
    told = f"{labels.metric_label(metrics[0])}: {told}"
    style.finish(figure, finding, rows, told, deviation="whiskers", handles=panels[1].get_legend_handles_labels()[0])
    return figure


def _line(axes: Axes, family: str, lines: Sequence[Mapping[str, Any]], metric: str) -> None:
    """A line through what a family of inferences reaches, with what it varies written beside each point."""
    x, y = [line["flops"] for line in lines], [line[f"{metric}_mean"] for line in lines]
    of_gap, untrained = metric == "relative_gap_ood", family in _UNTRAINED
    whiskers = style.whiskers(y, [line[f"{metric}_sd"] or 0.0 for line in lines], log=of_gap)
    colour, varied = labels.colour(family, "inference"), _VARIED.get(family, "")
    label = labels.label(family, "inference") + (f" ({_UNITS[varied]})" if varied else "")
    look: dict[str, Any] = {"color": colour, "marker": _MARKERS.get(family, "*"), "label": label}
    axes.errorbar(x, y, whiskers, elinewidth=0.8, markersize=5, linewidth=1, zorder=2 if untrained else 3, **look)
    # Each curve's numbers on its outer side: a trained network lies below in the gap and above in the MCC.
    right, up = (5 if untrained else -5), (5 if untrained == of_gap else -5)
    placed: dict[str, Any] = {"ha": "left" if untrained else "right", "va": "bottom" if up > 0 else "top", "fontsize": 7}
    for line, place in zip(lines if varied else (), zip(x, y, strict=True), strict=False):
        mark = axes.annotate(line[varied], place, (right, up), textcoords="offset points", color=colour, **placed)
        mark.set_path_effects(style.halo("white"))


def _finding(lines: Sequence[Mapping[str, Any]], kind: str) -> str:
    best = min(lines, key=lambda line: line["relative_gap_ood_mean"])
    gap = f"{best['relative_gap_ood_mean']:.1%}"
    where = "at the optimum to 0.1%" if gap in ("0.0%", "-0.0%") else f"{gap} above the optimum"
    return f"{_name(best)} {f'comes closest of the {kind}' if len(lines) > 1 else 'comes close'}: {where}"


def _name(line: Any) -> str:
    label, count = labels.label(line["inference"], "inference"), line.get(_VARIED.get(line["inference"], ""))
    return label if count is None else f"{label}-{count}"
