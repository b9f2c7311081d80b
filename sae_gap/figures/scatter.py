"""What survives out of distribution: recovery in distribution against recovery out of it."""

from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import labels, style
from sae_gap.storage.results import Row

_OWN = ("the dictionary's own encoder", {"marker": "o", "markersize": 6.5})
# Refinement and the lasso from zero reach one optimum: a wide hollow marker lets the other show
# inside it.
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
    """Recovery in distribution against recovery out of it: a colour for each dictionary, a marker
    for each inference.

    Args:
      rows: rows of one setting; `dictionary`, `inference`, `start`, `<metric>_id` and
        `<metric>_ood` are read.
      metric: the score without its split.

    Returns:
      The figure, or None where no method has both scores.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows, metrics = list(rows), (f"{metric}_id", f"{metric}_ood")
    lines = style.means(rows, ("method", "dictionary", "inference", "start"), metrics)
    if not lines:
        return None
    names = sorted({line["dictionary"] for line in lines}, key=labels.rank)
    figure = Figure(figsize=(style.WIDTH, 6.9))
    axes = figure.add_subplot()
    used = {}
    for name in names:
        colour, mine = labels.colour(name), [line for line in lines if line["dictionary"] == name]
        path = [[line[f"{each}_mean"] for line in mine] for each in metrics]
        axes.plot(*path, color=colour, linewidth=0.8, alpha=0.6, zorder=1)
        for line, x, y in zip(mine, *path, strict=True):
            label, look = _marker(line)
            used[label] = look
            sds = line[f"{metrics[1]}_sd"], line[f"{metrics[0]}_sd"]
            axes.errorbar(x, y, *sds, color=colour, elinewidth=0.8, zorder=3, **look)
    low, high = (limit(*axes.get_xlim(), *axes.get_ylim()) for limit in (min, max))
    axes.axline((low, low), slope=1, color="#999999", linewidth=0.8, linestyle=style.DASHED)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=style.axis_label(metrics[0]), ylabel=style.axis_label(metrics[1]))
    handles: list[Any] = [style.swatch(labels.label(name), labels.colour(name)) for name in names]
    handles += [style.mark(label, **look) for label, look in used.items()]
    title = f"{labels.metric_label(metric)} out of distribution against in distribution"
    caption = "On the dashed line both are the same"
    style.finish(figure, title, rows, spread="whiskers", caption=caption, handles=handles)
    return figure


def _marker(line: Row) -> tuple[str, dict[str, Any]]:
    inference = str(line["inference"])
    if inference in ("lasso", "fista", "ista") and line["start"] == "warm":
        return _WARM
    other = labels.label(inference, "inference"), {"marker": "*", "markersize": 7}
    return _MARKERS.get(inference, other)
