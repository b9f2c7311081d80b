"""What reconstructions cost downstream, against the number of active latents."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels, log_axes, style
from sae_gap.figures.sae_measurement import colours_of, name_of

_OWN: dict[str, Any] = {"marker": "D", "markersize": 6, "linestyle": "none"}
_CODES: dict[str, tuple[str, dict[str, Any]]] = {
    "lasso_refit": ("least squares on lasso supports", {"marker": "o", "markersize": 3, "linewidth": 1.5}),
    "lasso": ("certified lasso", {"marker": "s", "markersize": 3, "linewidth": 0.9, "linestyle": style.DASHED}),
    "omp": ("orthogonal matching pursuit", {"marker": "^", "markersize": 3.5, "linewidth": 0.9, "linestyle": (0, (1, 1.5))}),
    "own": ("encoder", _OWN),
    "own_refit": (
        "encoder, values refitted",
        _OWN | {"markerfacecolor": "white"},
    ),
}
_METRICS = {"fvu": "variance unexplained, FVU", "kl": "KL(model ‖ patched), nats"}
_OTHERS = "#9A9A9A"


@style.styled
def fvu_curve(rows: style.Rows, published: Sequence[Mapping[str, Any]] = (), source: str = "") -> Figure | None:
    """FVU, and the divergence that a reconstruction causes, against mean L0.

    Args:
      rows: of `sae_gap.measure.patching`; those of kind "score" are read.
      published: of other models, each a `dictionary` of `num_latents` with its `l0`, `fvu` and `kl`; drawn in grey.
      source: what the caption says of them.

    Returns:
      The figure, or None where there is nothing to draw.
    """
    shown = [row for row in rows if row["kind"] == "score" and row["l0"] > 0]
    if not shown:
        return None
    figure = Figure(figsize=(style.WIDTH, 5.2))
    panels = figure.subplots(1, 2)
    found = colours_of(shown)
    for axes, (metric, label) in zip(panels, _METRICS.items(), strict=True):
        _others(axes, published, metric)
        for name, colour in found.items():
            for codes, (_, look) in _CODES.items():
                points = sorted((row["l0"], row[metric]) for row in shown if (row["dictionary"], row["codes"]) == (name, codes))
                if points:
                    axes.plot(*zip(*points, strict=True), **{"color": colour, "markeredgecolor": colour, "zorder": 3} | look)
        every = [*shown, *published]
        for which, column in (("x", "l0"), ("y", metric)):
            log_axes.log_axis(axes, which, [row[column] for row in every if row[column] > 0])
        axes.set_title(label, loc="left", fontsize=8)
    roles = {row["dictionary"]: row for row in shown}
    handles = [style.mark(name_of(roles[name]), color=colour, linestyle="-", linewidth=1.5) for name, colour in found.items()]
    used = {row["codes"] for row in shown}
    handles += [
        style.mark(label, **{"color": style.QUIET, "linestyle": "-"} | look)
        for codes, (label, look) in _CODES.items()
        if codes in used
    ]
    for kind in dict.fromkeys(point["dictionary"] for point in published):
        handles.append(style.mark(f"{labels.label(kind)} elsewhere", color=_OTHERS, linestyle=_style(kind), linewidth=0.8))
    sizes = " and ".join(f"{size:,}" for size in sorted({point["num_latents"] for point in published}))
    told = "Diamonds are encoders, lines codes on their dictionaries"
    told += f"; grey is {source}, with {sizes} latents" if published else ""
    style.finish(figure, _finding(shown), shown, told, handles=handles, label="mean number of active latents, L0")
    return figure


def _others(axes: Axes, published: Sequence[Mapping[str, Any]], metric: str) -> None:
    lines: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for point in published:
        lines.setdefault((point["dictionary"], point["num_latents"]), []).append(point)
    for (name, _), points in lines.items():
        place = [point["l0"] for point in points], [point[metric] for point in points]
        axes.plot(*place, color=_OTHERS, linewidth=0.8, linestyle=_style(name), zorder=1)


def _style(kind: str) -> Any:
    return "-" if kind == "topk" else style.DASHED


def _finding(rows: Sequence[Mapping[str, Any]]) -> str:
    best = sorted((row for row in rows if row["codes"] in ("lasso_refit", "omp")), key=lambda row: row["kl"])
    for own in rows:
        if own["codes"] == "own":
            same = [row for row in best if (row["dictionary"], row["level"]) == (own["dictionary"], own["level"])]
            cost = f"with {own['l0']:.3g} latents {own['dictionary']} costs {own['kl']:.3f} nats"
            return f"{cost}, where the best codes of its dictionary cost {same[0]['kl']:.3f}" if same else cost
    least = min(best or rows, key=lambda row: row["kl"])
    return f"{name_of(least)} costs {least['kl']:.3f} nats with {least['l0']:.3g} latents"
