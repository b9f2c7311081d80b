"""One's own SAE in three figures: its place beside the curves, the parts of its gap, and how alike its atoms are."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sae_gap.figures import labels, log_axes, style

# SAEs in their order, then over again; controls and the like have colours of their own in `sae_gap.figures.labels`.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
_PARTS = {
    "scale_share": ("one scale of all codes", "#BDBDBD"),
    "values_share": ("values on the encoder's support", "#56B4E9"),
    "support_share": ("another support", "#0072B2"),
}
_WANT = {"scale_share": "another scale", "values_share": "better values", "support_share": "another support"}
_DUPLICATE = 0.95
# The look of an encoder's own codes.
_OWN: dict[str, Any] = {"marker": "D", "linestyle": "none", "markeredgecolor": style.QUIET}


@style.styled
def fvu_curve(rows: style.Rows) -> Figure | None:
    """FVU against mean L0: the curve of every dictionary, and the SAEs on it, before and after a refit on their own support.

    Args:
      rows: rows of a measurement; those of kind "curve" are read.

    Returns:
      The figure, or None where there is no curve.
    """
    shown = [row for row in rows if row["kind"] == "curve"]
    if not shown:
        return None
    figure = Figure(figsize=(style.WIDTH, 4.8))
    axes = figure.add_subplot()
    curves = _curves(shown)
    for place, curve in enumerate(curves):
        look: dict[str, Any] = {"color": curve.colour, "zorder": 2}
        # What lies beneath its like is drawn broader, and shows as a rim.
        rim = 3 * sum(_alike(curve, later) for later in curves[place + 1 :])
        axes.plot(*_path(curve.lasso, "l0", "fvu"), linestyle=style.DASHED, linewidth=0.9 + rim, **look)
        axes.plot(*_path(curve.lasso, "refit_l0", "refit_fvu"), marker="o", markersize=2.5 + rim, linewidth=1.5 + rim, **look)
        own = curve.own
        if own is not None and own["l0"] > 0:
            ends = [own["l0"], own["refit_l0"]], [own["fvu"], own["refit_fvu"]]
            axes.plot(*ends, color=curve.colour, linewidth=0.8, zorder=4)
            for x, y, face, zorder in zip(*ends, (curve.colour, "white"), (6, 5), strict=True):
                axes.plot(
                    x, y, markersize=7 + rim, markerfacecolor=face, zorder=zorder, **_OWN | {"markeredgecolor": curve.colour}
                )
    axes.axhline(1, color=style.QUIET, linewidth=0.6, linestyle=style.DASHED, zorder=1)
    # To the L0 of what is the user's own: a curve of random atoms begins where hardly any is active.
    mine = [row["l0"] for row in shown if row["role"] != "control" and row["l0"] > 0]
    if mine:
        axes.set_xlim(0.6 * min(mine), 1.7 * max(mine))
    log_axes.log_axis(axes, "x", [row["l0"] for row in shown if row["l0"] > 0])
    log_axes.log_axis(axes, "y", [row[column] for row in shown for column in ("fvu", "refit_fvu") if row[column] > 0])
    axes.set(xlabel="mean number of active latents, L0", ylabel="variance unexplained, FVU (0 is perfect)")
    handles = [_line(curve.label, curve.colour) for curve in curves]
    handles.append(_line("least squares on lasso supports", style.QUIET, marker="o", markersize=2.5))
    handles.append(_line("certified lasso", style.QUIET, linewidth=0.9, linestyle=style.DASHED))
    if any(curve.own for curve in curves):
        handles.append(style.mark("encoder", markersize=6, markerfacecolor=style.QUIET, **_OWN))
        handles.append(style.mark("encoder, values refitted", markersize=6, markerfacecolor="white", **_OWN))
    l0 = next((curve.own["l0"] for curve in curves if curve.own is not None), curves[0].middle["l0"])
    told, more = "; ".join(_curve_words(curve, l0) for curve in curves), f"{shown[0]['samples']:,} held-out samples"
    style.finish(figure, _curve_finding(curves), shown, told, more=more, handles=handles)
    return figure


class _Curve(NamedTuple):
    """The points of a dictionary: those of the lasso by ascending L0, and its encoder's if it has one."""

    label: str
    colour: str
    lasso: list[Mapping[str, Any]]
    own: Mapping[str, Any] | None

    def near(self, l0: float) -> Mapping[str, Any]:
        """The point of the lasso whose L0 is nearest."""
        return min(self.lasso, key=lambda row: abs(row["l0"] - l0))

    @property
    def middle(self) -> Mapping[str, Any]:
        return self.lasso[len(self.lasso) // 2]


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[_Curve]:
    curves = []
    for name, colour in colours_of(rows).items():
        points = [row for row in rows if row["dictionary"] == name]
        lasso = sorted((row for row in points if row["codes"] == "lasso"), key=lambda row: row["l0"])
        own = next((row for row in points if row["codes"] == "own"), None)
        curves.append(_Curve(name_of(points[0]), colour, lasso, own))
    return curves


def _alike(one: _Curve, other: _Curve) -> bool:
    """Whether two curves lie on each other, as far as an eye can tell."""
    first, second = (np.array(_path(curve.lasso, "refit_l0", "refit_fvu")) for curve in (one, other))
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=0.01))


def name_of(row: Mapping[str, Any]) -> str:
    """Controls have the suite's labels; everything else keeps the user's name."""
    return labels.label(row["dictionary"]) if row["role"] == "control" else row["dictionary"]


def _line(label: str, colour: str, **look: Any) -> Line2D:
    return style.mark(label, color=colour, **{"linestyle": "-", "linewidth": 1.5} | look)


def _path(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if row[x] > 0 and row[y] > 0]
    return [row[x] for row in kept], [row[y] for row in kept]


def _curve_finding(curves: Sequence[_Curve]) -> str:
    for curve in curves:
        label, own = curve.label, curve.own
        if own is not None:
            best = curve.near(own["l0"])
            mine = f"with {own['l0']:.3g} latents {label} leaves {own['refit_fvu']:.3f} of the variance unexplained"
            return f"{mine}, where {best['l0']:.3g} of its dictionary could leave {best['refit_fvu']:.3f}, by least squares"
    best = curves[0].middle
    return f"with {best['l0']:.3g} latents {curves[0].label} can leave {best['refit_fvu']:.3f} of the variance unexplained"


def _curve_words(curve: _Curve, l0: float) -> str:
    """At the L0 of its encoder or, where there is none, at another."""
    own = curve.own
    best = curve.near(l0 if own is None else own["l0"])
    text = f"at L0 {best['l0']:.1f} on {curve.label}: lasso {best['fvu']:.3f}, refitted {best['refit_fvu']:.3f}"
    return text if own is None else f"{text}, encoder {own['fvu']:.3f}, refitted {own['refit_fvu']:.3f}"


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
    for place, line in enumerate(shown):
        left = 0.0
        for part, (_, colour) in _PARTS.items():
            width = max(0.0, 100 * line[part])
            axes.barh(place, width, 0.6, left, color=colour, zorder=2)
            left += width
        sizes = " + ".join(f"{100 * line[part]:.1f}" for part in _PARTS)
        axes.annotate(f" {100 * line['relative_gap']:.1f} % = {sizes}", (left, place), va="center", zorder=3)
    axes.set_yticks(range(len(shown)), [line["dictionary"] for line in shown], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    # Room for the words beside the longest bar.
    axes.set_xlim(0, 1.75 * max(max(100 * line["relative_gap"] for line in shown), 1e-6))
    axes.spines["left"].set_visible(False)
    line = max(shown, key=lambda line: line["relative_gap"])
    part = max(_PARTS, key=lambda part: line[part])
    finding = (
        f"the codes of {line['dictionary']} cost {100 * line['relative_gap']:.1f} % more than the best ones, "
        f"most of all for want of {_WANT[part]}: {100 * line[part]:.1f} %"
    )
    handles = [Patch(facecolor=colour, label=label) for label, colour in _PARTS.values()]
    axes.set_xlabel("gap F(own codes) − F(best codes), % of F(best codes)")
    told = [
        f"gap of {line['dictionary']} {100 * line['relative_gap']:.1f} %, scale {100 * line['scale_share']:.1f}, "
        f"values {100 * line['values_share']:.1f}, support {100 * line['support_share']:.1f}"
        for line in shown
    ]
    style.finish(figure, finding, shown, "; ".join(told), more=f"{shown[0]['samples']:,} samples", handles=handles)
    return figure


@style.styled
def coherence(rows: style.Rows) -> Figure | None:
    """How alike the atoms of each dictionary are: the largest |cosine| of each atom with another, from the least to the most.

    Args:
      rows: rows of a measurement; those of kind "atoms" are read, whose `coherence` holds quantiles at equal steps.

    Returns:
      The figure, or None where no dictionary has two live atoms.
    """
    shown = [row for row in rows if row["kind"] == "atoms" and row["coherence"]]
    if not shown:
        return None
    colours = colours_of(shown)
    figure = Figure(figsize=(style.WIDTH, 4.0))
    axes = figure.add_subplot()
    axes.axhline(_DUPLICATE, color=style.QUIET, linewidth=0.8, linestyle=style.DASHED, zorder=1)
    axes.annotate("nearly the same atom", (0, _DUPLICATE), (4, -3), textcoords="offset points", va="top", color=style.QUIET)
    for row in shown:
        share = np.linspace(0, 100, len(row["coherence"]))
        axes.plot(share, row["coherence"], color=colours[row["dictionary"]], linewidth=1.5, zorder=2)
    axes.set(xlim=(0, 100), ylim=(0, 1.02))
    axes.set(xlabel="% of atoms, least coherent first", ylabel="largest |cosine| with another atom")
    medians = [f"{row['coherence'][len(row['coherence']) // 2]:.2f}" for row in shown]
    finding = (
        f"the median atom of {name_of(shown[0])} has another at a cosine of {medians[0]}; "
        f"{shown[0]['duplicates']:,} have one that is nearly the same"
    )
    handles = [_line(name_of(row), colours[row["dictionary"]]) for row in shown]
    told = ", ".join(f"median of {name_of(row)} {median}" for row, median in zip(shown, medians, strict=True))
    style.finish(figure, finding, shown, told, handles=handles)
    return figure


def colours_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """SAEs by their order, controls by their names."""
    roles = {row["dictionary"]: row["role"] for row in rows}
    mine = [name for name, role in roles.items() if role != "control"]
    return {
        name: labels.colour(name) if role == "control" else _COLOURS[mine.index(name) % len(_COLOURS)]
        for name, role in roles.items()
    }
