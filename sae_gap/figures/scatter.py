"""What survives out of distribution: recovery in distribution against recovery out of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_gap.figures import labels, style, tables

_OWN = ("the dictionary's own encoder", {"marker": "o", "markersize": 6.5})
# Refinement and the lasso from zero reach one optimum: a wide hollow marker lets the other show inside it.
_WARM = ("lasso from those codes", {"marker": "D", "markersize": 10, "markerfacecolor": "none"})
_COLD = ("lasso from zero", {"marker": "s", "markersize": 5})
_MARKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "own": _OWN,
    "support": ("best values on its support", {"marker": "^", "markersize": 6}),
    "least_squares": ("least squares on its support", {"marker": "v", "markersize": 6}),
    "lasso": _COLD,
    "fista": _COLD,
    "ista": ("ISTA", {"marker": "X", "markersize": 6}),
    "omp": ("OMP", {"marker": "P", "markersize": 6}),
    "mp": ("matching pursuit", {"marker": "p", "markersize": 6}),
    "lista": ("LISTA", {"marker": "h", "markersize": 6}),
}


@style.styled
def recovery(rows: style.Rows, metric: str = "mcc") -> Figure | None:
    """Recovery in distribution against recovery out of it: a colour for each dictionary, a marker for each inference.

    Args:
      rows: rows of one setting; `dictionary`, `inference`, `start`, `<metric>_id` and `<metric>_ood` are read.
      metric: the score without its split.

    Returns:
      The figure, or None where no method has both scores.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    first: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["method"], row)
    summary = tables.summarise(rows, by=("method",), metrics=(f"{metric}_id", f"{metric}_ood"))
    points = [line for line in summary if line[f"{metric}_id_mean"] is not None and line[f"{metric}_ood_mean"] is not None]
    if not points:
        return None
    figure = Figure(figsize=(6.0, 6.1))
    axes = figure.add_subplot()
    places: dict[str, list[style.Point]] = {}
    colours: dict[str, str] = {}
    used, whiskers = {}, []
    for line in points:
        row = first[line["method"]]
        name, colour = (
            labels.label(row.get("dictionary") or row["method"]),
            labels.colour(row.get("dictionary") or row["method"]),
        )
        label, look = _marker(row)
        used[label] = Line2D([], [], linestyle="none", color="#444444", label=label, **look)
        x, y = line[f"{metric}_id_mean"], line[f"{metric}_ood_mean"]
        dx, dy = line[f"{metric}_id_sd"] or 0.0, line[f"{metric}_ood_sd"] or 0.0
        axes.errorbar(x, y, dy, dx, color=colour, linewidth=0.8, zorder=2)
        axes.plot(x, y, linestyle="none", color=colour, zorder=3, **look)
        colours[name] = colour
        places.setdefault(name, []).append((x, y))
        whiskers += [((x - dx, y), (x + dx, y)), ((x, y - dy), (x, y + dy))]
    for name, path in places.items():
        axes.plot(*zip(*path, strict=True), color=colours[name], linewidth=0.8, alpha=0.6, zorder=1)
    extent = np.ptp(whiskers)
    low, high = np.min(whiskers) - 0.06 * extent - 0.02, np.max(whiskers) + 0.06 * extent + 0.02
    axes.plot([low, high], [low, high], color="#999999", linewidth=0.8, linestyle=style.DASHED, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(style.axis_label(f"{metric}_id"))
    axes.set_ylabel(style.axis_label(f"{metric}_ood"))
    below = sum(line[f"{metric}_ood_mean"] < line[f"{metric}_id_mean"] for line in points)
    finding = f"{below} of {len(points)} methods recover less out of distribution"
    style.head(figure, finding, rows, deviation="whiskers")
    style.foot(figure, list(used.values()))
    style.place_labels(figure, axes, places, colours, whiskers)
    lost = max(points, key=lambda line: line[f"{metric}_id_mean"] - line[f"{metric}_ood_mean"])
    row = first[lost["method"]]
    ends = f"from {style.number(lost[f'{metric}_id_mean'])} to {style.number(lost[f'{metric}_ood_mean'])}"
    name = f"{labels.label(row.get('dictionary') or row['method'])} ({_marker(row)[0]})"
    style.caption(figure, finding, f"{labels.metric_label(metric)} falls the most for {name}: {ends}")
    return figure


def _marker(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    inference = str(row.get("inference"))
    if inference in ("lasso", "fista", "ista") and row.get("start") == "warm":
        return _WARM
    return _MARKERS.get(inference, (labels.label(inference, "inference"), {"marker": "*", "markersize": 7}))
