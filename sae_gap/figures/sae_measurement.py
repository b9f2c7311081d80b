"""One's own SAE in three figures: its place beside the curves, the parts of its gap, and how alike
its atoms are.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.figures import labels, style
from sae_gap.storage.results import grouped

# SAEs in their order, then over again; controls and the like have colours of their own in
# `sae_gap.figures.labels`.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
_PARTS = {
    "scale_share": ("one scale of all codes", "#BDBDBD"),
    "values_share": ("values on the encoder's support", "#56B4E9"),
    "support_share": ("another support", "#0072B2"),
}
_DUPLICATE = 0.95
_OWN: dict[str, Any] = {"marker": "D", "markersize": 6, "linestyle": "none", "zorder": 4}
_THIN: dict[str, Any] = {"markersize": 3, "linewidth": 0.9}
_CODES: dict[str, tuple[str, dict[str, Any]]] = {
    "lasso_refit": ("least squares on lasso supports", {"marker": "o", "markersize": 3}),
    "lasso": ("certified lasso", _THIN | {"marker": "s", "linestyle": style.DASHED}),
    "omp": ("orthogonal matching pursuit", _THIN | {"marker": "^", "linestyle": (0, (1, 1.5))}),
    "screened": ("screened pursuit, pruned", _THIN | {"marker": "v", "linestyle": "-."}),
    "weighted": ("screened, by nats", _THIN | {"marker": "P", "linestyle": (0, (5, 1))}),
    "own": ("encoder", _OWN),
    "own_refit": ("encoder, values refitted", _OWN | {"markerfacecolor": "white"}),
}
_METRICS = {"fvu": "variance unexplained, FVU (0 is perfect)", "kl": "KL(model ‖ patched), nats"}
_OTHERS = "#9A9A9A"


@style.styled
def fvu_curve(rows: style.Rows, published: style.Lines = (), source: str = "") -> Figure | None:
    """FVU, and the divergence that a reconstruction causes where it is known, against mean L0.

    Args:
      rows: of a measurement or of patching; those of codes that have a look are read.
      published: of other models, each a `dictionary` of `num_latents` with its `l0`, `fvu` and
        `kl`; drawn in grey.
      source: what the caption says of them.

    Returns:
      The figure, or None where there is nothing to draw.
    """
    shown = [row for row in rows if row.get("codes") in _CODES and row.get("fvu") is not None]
    # A dead encoder is off the scale of all else.
    points = [row for row in shown if row["l0"] > 0 and row["fvu"] > 0 and not row.get("dead")]
    if not points:
        return None
    aside = {row["dictionary"] for row in shown if row.get("dead") or is_control(row)}
    metrics = [metric for metric in _METRICS if metric in points[0]]
    figure = Figure(figsize=(style.WIDTH, 5.0))
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    colours = colours_of(points)
    for axes, metric in zip(panels, metrics, strict=True):
        for (kind, _), places in _paths(published, ("dictionary", "num_latents"), metric).items():
            axes.plot(*zip(*places, strict=True), **_other(kind))
        for (name, codes), places in _paths(points, ("dictionary", "codes"), metric).items():
            look = {"color": colours[name], "zorder": 3} | _CODES[codes][1]
            axes.plot(*zip(*sorted(places), strict=True), **look)
        every = [*points, *published]
        style.log_axis(axes.xaxis, [row["l0"] for row in every])
        style.log_axis(axes.yaxis, [row[metric] for row in every])
        # A curve of random atoms begins where hardly any is active, far left of what one looks at.
        reach = [row["l0"] for row in every if row["dictionary"] not in aside]
        if reach:
            axes.set_xlim(0.6 * min(reach), 1.7 * max(reach))
        axes.set_xlabel("mean number of active latents, L0")
        axes.set_title(_METRICS[metric])
    named = {row["dictionary"]: name_of(row) for row in points}
    handles: list[Any] = [style.swatch(named[name], colour) for name, colour in colours.items()]
    used = {row["codes"] for row in points}
    for label, look in (_CODES[codes] for codes in _CODES if codes in used):
        handles.append(style.mark(label, **{"linestyle": "-"} | look))
    for kind in dict.fromkeys(point["dictionary"] for point in published):
        handles.append(style.mark(f"{labels.label(kind)} elsewhere", **_other(kind)))
    sizes = sorted({point["num_latents"] for point in published})
    numbers = " and ".join(f"{size:,}" for size in sizes)
    style.finish(
        figure,
        "Variance unexplained by number of active latents",
        shown,
        more=f"{shown[0]['num_scored']:,} held-out samples" if "num_scored" in shown[0] else "",
        caption=f"Grey is {source}, with {numbers} latents" if published else "",
        handles=handles,
    )
    return figure


def _paths(rows: style.Lines, by: tuple[str, str], metric: str) -> dict[tuple[Any, ...], list[Any]]:
    """The places of each line, L0 and the metric, by the values of two columns."""
    return {
        key: [(row["l0"], row[metric]) for row in line] for key, line in grouped(rows, by).items()
    }


def _other(kind: str) -> dict[str, Any]:
    dash = "-" if kind == "topk" else style.DASHED
    return {"color": _OTHERS, "linewidth": 0.8, "linestyle": dash, "zorder": 1}


def name_of(row: Mapping[str, Any]) -> str:
    """Controls have the suite's labels; everything else keeps the user's name."""
    return labels.label(row["dictionary"]) if is_control(row) else row["dictionary"]


def is_control(row: Mapping[str, Any]) -> bool:
    """Whether the dictionary of a row is there to be compared with."""
    return "control" in (row.get("family"), row.get("role"))


@style.styled
def gap_parts(lines: style.Rows) -> Figure | None:
    """What the gap of each encoder is made of, in per cent of the optimum's objective.

    Args:
      lines: of `sae_gap.measure.gap_lines`; those without an encoder are left out.

    Returns:
      The figure, or None where there is no encoder.
    """
    shown = [line for line in lines if line.get("relative_gap") is not None]
    if not shown:
        return None
    figure = Figure(figsize=(style.WIDTH, 1.7 + 0.62 * len(shown)))
    axes = figure.add_subplot()
    left = np.zeros(len(shown))
    for part, (label, colour) in _PARTS.items():
        widths = np.array([max(0.0, 100 * line[part]) for line in shown])
        bars = axes.barh(range(len(shown)), widths, 0.6, left, color=colour, label=label)
        left += widths
    for bar, line in zip(bars, shown, strict=True):
        sizes = " + ".join(f"{100 * line[part]:.1f}" for part in _PARTS)
        text = f" {100 * line['relative_gap']:.1f} % = {sizes}"
        axes.annotate(text, (1, 0.5), xycoords=bar, va="center")
    style.name_along(axes.yaxis, [line["dictionary"] for line in shown])
    axes.invert_yaxis()
    # Room for the words beside the longest bar.
    axes.set_xlim(0, 1.75 * max(*left, 1e-6))
    axes.set_xlabel("gap F(own codes) − F(best codes), % of F(best codes)")
    handles = [style.swatch(*part) for part in _PARTS.values()]
    more = f"{shown[0]['samples']:,} samples"
    style.finish(figure, "The gap of each encoder and its parts", shown, more=more, handles=handles)
    return figure


@style.styled
def coherence(rows: style.Rows) -> Figure | None:
    """How alike the atoms of each dictionary are: the largest |cosine| of each atom with another,
    from the least to the most.

    Args:
      rows: of a measurement, whose `coherence` holds quantiles at equal steps.

    Returns:
      The figure, or None where no dictionary has two live atoms.
    """
    shown = [*{row["dictionary"]: row for row in rows if row.get("coherence")}.values()]
    if not shown:
        return None
    colours = colours_of(shown)
    figure = Figure(figsize=(style.WIDTH, 4.0))
    axes = figure.add_subplot()
    style.level(axes, _DUPLICATE, color=style.QUIET)
    axes.text(1, _DUPLICATE - 0.01, "nearly the same atom", va="top", color=style.QUIET)
    for row in shown:
        share = np.linspace(0, 100, len(row["coherence"]))
        axes.plot(share, row["coherence"], color=colours[row["dictionary"]], label=name_of(row))
    axes.set(xlim=(0, 100), ylim=(0, 1.02))
    axes.set(xlabel="% of atoms, least coherent first", ylabel="largest |cosine| with another atom")
    handles, _ = axes.get_legend_handles_labels()
    style.finish(figure, "How alike the atoms of each dictionary are", shown, handles=handles)
    return figure


def colours_of(rows: style.Lines) -> dict[str, str]:
    """SAEs by their order, controls by their names."""
    roles = {row["dictionary"]: is_control(row) for row in rows}
    mine = [name for name, control in roles.items() if not control]
    own = dict(zip(mine, itertools.cycle(_COLOURS), strict=False))
    return {name: own.get(name) or labels.colour(name) for name in roles}
