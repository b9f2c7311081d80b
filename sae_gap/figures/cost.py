"""What inference leaves of the gap and what it recovers, against what it costs."""

from typing import Any

from matplotlib import patheffects
from matplotlib.axes import Axes
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
# Of each line, by its family and screens or its codes: its label, look, and which of its points the
# label stands beside, how far away in points.
_LINES: dict[Any, tuple[str, dict[str, Any], int, tuple[int, int]]] = {
    "own": ("the SAE's\nencoder", {"color": "black", "marker": "D"}, 0, (-7, 0)),
    "mp": ("matching pursuit", {"color": "#AA4499", "marker": "p"}, 0, (0, 6)),
    "gradient_pursuit": ("gradient pursuit", {"color": "#44AA99", "marker": "v"}, 0, (-6, 0)),
    "omp": ("OMP", {"color": "#882255", "marker": "X"}, 0, (-6, 0)),
    "omp_pruned": ("OMP, pruned", {"color": "#882255", "marker": "X"}, 0, (0, 6)),
    ("fista", None): ("FISTA", {"color": "#7F7F7F", "marker": "s"}, -1, (0, 6)),
    ("screened_pursuit", 1): ("one screen", {"color": "#56B4E9", "marker": "o"}, 1, (6, 2)),
    ("screened_pursuit", 2): ("two screens", {"color": "#0072B2", "marker": "o"}, 1, (6, 0)),
    ("batch_pursuit", 2): ("two screens, pruned", {"color": "#EE3377", "marker": "o"}, 1, (6, 0)),
}
# Of each level: its label, and the side of the axes where it stands, above or below.
_LEVELS = {
    "lasso_refit": ("certified lasso", (0.01, 2), {"ha": "left", "va": "bottom"}),
    "lasso_pruned": ("certified lasso, pruned", (0.99, -2), {"ha": "right", "va": "top"}),
}
_CAPTION = (
    "Along a line of screens there are more candidates for each atom. Pruned codes pursue twice as "
    "many atoms, of which those stay whose absence would cost most. All but the SAE's own "
    "codes, matching and gradient pursuit have values by least squares"
)
_TITLES = {"fvu": "variance unexplained, FVU", "kl": "KL(model ‖ patched), nats"}


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
            offset = 4 if right else -4, 4 if up else -4
            for line, *place in zip(mine if column else (), cost, y, strict=False):
                _write(axes, line[column], place, offset, colour)
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


@style.styled
def loss_by_cost(rows: style.Rows) -> Figure | None:
    """What codes on one dictionary leave of the variance and cost in nats, against their cost in
    products with the dictionary.

    Args:
      rows: with `codes`, `family`, `screens`, `products`, `fvu` and `kl`. The certified lasso's,
        without `products`, are drawn as levels.

    Returns:
      The figure, or None where no codes have a cost.
    """
    lines: dict[Any, list[Any]] = {}
    rows = sorted(rows, key=lambda row: row["products"] or 0)
    for row in rows:
        line = row["codes"] if row["codes"] in _LINES else (row["family"], row["screens"])
        if row["products"] and line in _LINES:
            lines.setdefault(line, []).append(row)
    if not lines:
        return None
    figure = Figure(figsize=(style.WIDTH, 3.8))
    for axes, metric in zip(figure.subplots(1, 2), _TITLES, strict=True):
        for line, mine in lines.items():
            label, look, at, offset = _LINES[line]
            xy = [[row[column] for row in mine] for column in ("products", metric)]
            axes.plot(*xy, label=label, zorder=3, **look)
            _write(
                axes,
                label,
                [values[min(at, len(mine) - 1)] for values in xy],
                offset,
                look["color"],
            )
        for row in rows:
            if row["codes"] in _LEVELS:
                label, (x, up), sides = _LEVELS[row["codes"]]
                style.level(axes, row[metric], label=label)
                options = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
                axes.annotate(label, (x, row[metric]), (0, up), fontsize=7, **options, **sides)
        drawn = [row for mine in lines.values() for row in mine]
        # A first iteration of FISTA is off the scale of all else.
        others = [row[metric] for row in drawn if row["family"] != "fista"]
        if others:
            axes.set_ylim(0, 1.1 * max(others))
        style.log_axis(axes.xaxis, [row["products"] for row in drawn])
        axes.set_xlim(0.25, 2 * max(row["products"] for row in drawn))
        axes.set_xlabel("cost, in products with the dictionary")
        axes.set_title(_TITLES[metric])
    least, most = (f"{of(row['l0'] for row in drawn):.0f}" for of in (min, max))
    title = f"FVU and KL of codes on {rows[0]['dictionary']} by their cost, L0 {least} to {most}"
    style.finish(figure, title, rows[:1], caption=_CAPTION)
    return figure


def _write(axes: Axes, text: Any, point: Any, offset: tuple[int, int], colour: str) -> None:
    """Text beside a point, so many points away, on a white rim."""
    across, up = offset
    sides = {"ha": "left" if across > 0 else "right" if across < 0 else "center"}
    sides |= {"va": "bottom" if up > 0 else "top" if up < 0 else "center"}
    rim = [patheffects.withStroke(linewidth=2, foreground="white")]
    found = axes.annotate(text, point, offset, textcoords="offset points", zorder=4)
    found.set(fontsize=7, color=colour, path_effects=rim, **sides)
