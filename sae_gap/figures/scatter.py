"""What survives out of distribution: recovery in distribution against recovery out of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.figures import labels, style
from sae_gap.figures.points import Points, methods

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
    found = methods(rows, (f"{metric}_id", f"{metric}_ood"))
    if not found:
        return None
    figure = Figure(figsize=(6.0, 6.1))
    axes = figure.add_subplot()
    points, used = Points(axes), {}
    for method in found:
        (ident, ood), (across, up), (label, look) = method.means, method.sds, _marker(method.row)
        used[label] = style.mark(label, **look)
        points.add(method.name, method.colour, (ident, ood), across, up, **look)
    for name, path in points.places.items():
        axes.plot(*zip(*path, strict=True), color=points.colours[name], linewidth=0.8, alpha=0.6, zorder=1)
    margin = 0.06 * np.ptp(points.whiskers) + 0.02
    limits = np.min(points.whiskers) - margin, np.max(points.whiskers) + margin
    axes.plot(limits, limits, color="#999999", linewidth=0.8, linestyle=style.DASHED, zorder=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(style.axis_label(f"{metric}_id"))
    axes.set_ylabel(style.axis_label(f"{metric}_ood"))
    told = [style.two_numbers(*method.means) for method in found]
    # What is written alike has not moved.
    falls = [0.0 if one == other else -np.diff(method.means)[0] for method, (one, other) in zip(found, told, strict=True)]
    worst = int(np.argmax(falls))
    name, (one, other) = f"{found[worst].name} ({_marker(found[worst].row)[0]})", told[worst]
    extreme = "falls the most" if falls[worst] > 0 else "rises the least"
    moved = f"stays at {one}" if one == other else f"goes from {one} to {other}"
    several = len(falls) > 1 and one != other
    words = f"{labels.metric_label(metric)} {f'{extreme} for {name}: it' if several else f'of {name}'} {moved}"
    finding = _finding([bool(fall > 0) for fall in falls])
    style.finish(figure, finding, rows, words, deviation="whiskers", handles=list(used.values()))
    points.write_names()
    return figure


def _finding(fallen: Sequence[bool]) -> str:
    below, count = sum(fallen), len(fallen)
    if count == 1:
        return f"The method recovers {'less' if below else 'no less'} out of distribution"
    if below == count:
        return f"{'Both' if count == 2 else f'All {count}'} methods recover less out of distribution"
    share = f"{below} of {count} methods" if below else "No method"
    return f"{share} recover{'s' if below < 2 else ''} less out of distribution"


def _marker(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    inference = str(row.get("inference"))
    if inference in ("lasso", "fista", "ista") and row.get("start") == "warm":
        return _WARM
    return _MARKERS.get(inference, (labels.label(inference, "inference"), {"marker": "*", "markersize": 7}))
