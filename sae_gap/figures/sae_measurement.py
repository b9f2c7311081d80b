"""One's own SAE in three figures: its place beside the fronts, the parts of its gap, and how alike its atoms are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
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


@style.styled
def front(rows: style.Rows) -> Figure | None:
    """FVU against mean L0: the front of every dictionary, and the SAEs on it, before and after a refit on their own support.

    Args:
      rows: rows of a measurement; those of kind "front" are read.

    Returns:
      The figure, or None where there is no front.
    """
    shown = [row for row in rows if row["kind"] == "front"]
    if not shown:
        return None
    groups = _grouped(shown)
    colours = _colours(shown)
    figure = Figure(figsize=(style.WIDTH, 4.8))
    axes = figure.add_subplot()
    covers = _covers(groups)
    for name, points in groups.items():
        lasso = _lasso(points)
        look: dict[str, Any] = {"color": colours[name], "zorder": 2}
        # What lies beneath its like is drawn broader, and shows as a rim.
        rim = 3 * covers[name]
        axes.plot(*_path(lasso, "l0", "fvu"), linestyle=style.DASHED, linewidth=0.9 + rim, **look)
        axes.plot(*_path(lasso, "refit_l0", "refit_fvu"), marker="o", markersize=2.5 + rim, linewidth=1.5 + rim, **look)
        for row in (row for row in points if row["codes"] == "own" and row["l0"] > 0):
            axes.plot(
                [row["l0"], row["refit_l0"]], [row["fvu"], row["refit_fvu"]], color=colours[name], linewidth=0.8, zorder=4
            )
            big: dict[str, Any] = {"marker": "D", "markersize": 7 + rim, "linestyle": "none", "markeredgecolor": colours[name]}
            axes.plot(row["l0"], row["fvu"], markerfacecolor=colours[name], zorder=6, **big)
            axes.plot(row["refit_l0"], row["refit_fvu"], markerfacecolor="white", zorder=5, **big)
    axes.axhline(1, color=style.QUIET, linewidth=0.6, linestyle=style.DASHED, zorder=1)
    _about(axes, shown)
    log_axes.log_axis(axes, "x", [row["l0"] for row in shown if row["l0"] > 0])
    log_axes.log_axis(axes, "y", [row[column] for row in shown for column in ("fvu", "refit_fvu") if row[column] > 0])
    axes.set(xlabel="mean number of active latents, L0", ylabel="variance unexplained, FVU (0 is perfect)")
    finding = _front_finding(groups)
    handles = [Line2D([], [], color=colours[name], linewidth=1.5, label=_label(points[0])) for name, points in groups.items()]
    grey: dict[str, Any] = {"color": style.QUIET}
    handles.append(Line2D([], [], linewidth=1.5, marker="o", markersize=2.5, label="least squares on lasso supports", **grey))
    handles.append(Line2D([], [], linewidth=0.9, linestyle=style.DASHED, label="certified lasso", **grey))
    if any(row["codes"] == "own" for row in shown):
        point: dict[str, Any] = {"marker": "D", "linestyle": "none", "markersize": 6, "markeredgecolor": style.QUIET}
        handles.append(Line2D([], [], markerfacecolor=style.QUIET, label="encoder", **point))
        handles.append(Line2D([], [], markerfacecolor="white", label="encoder, values refitted", **point))
    told, more = "; ".join(map(_front_words, groups.values())), f"{shown[0]['samples']:,} held-out samples"
    style.finish(figure, finding, shown, told, more=more, handles=handles)
    return figure


def _lasso(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The points of a front, by ascending L0."""
    return sorted((row for row in points if row["codes"] == "lasso"), key=lambda row: row["l0"])


def _covers(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, int]:
    """How many fronts that are drawn later lie on each one, as far as an eye can tell."""
    paths = {name: np.array(_path(_lasso(points), "refit_l0", "refit_fvu")) for name, points in groups.items()}
    order = list(paths)

    def alike(one: np.ndarray, other: np.ndarray) -> bool:
        return one.shape == other.shape and bool(np.allclose(one, other, rtol=0.01))

    return {name: sum(alike(paths[name], paths[later]) for later in order[place + 1 :]) for place, name in enumerate(order)}


def _about(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keeps to the L0 of what is the user's own: a front of random atoms begins where hardly any is active."""
    mine = [row["l0"] for row in rows if row["role"] != "control" and row["l0"] > 0]
    if mine:
        axes.set_xlim(0.6 * min(mine), 1.7 * max(mine))


def _label(row: Mapping[str, Any]) -> str:
    """Controls have names of the suite, and all else that of the user, to the letter."""
    return labels.label(row["dictionary"]) if row["role"] == "control" else row["dictionary"]


def _path(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if row[x] > 0 and row[y] > 0]
    return [row[x] for row in kept], [row[y] for row in kept]


def _own(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((row for row in points if row["codes"] == "own"), None)


def _nearest(points: Sequence[Mapping[str, Any]], l0: float) -> Mapping[str, Any]:
    return min((row for row in points if row["codes"] == "lasso"), key=lambda row: abs(row["l0"] - l0))


def _middle(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    lasso = _lasso(points)
    return lasso[len(lasso) // 2]


def _front_finding(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    for points in groups.values():
        own = _own(points)
        if own is not None:
            best = _nearest(points, own["l0"])
            mine = f"with {own['l0']:.3g} latents {_label(own)} leaves {own['fvu']:.3f} of the variance unexplained"
            return f"{mine}, where {best['l0']:.3g} of its dictionary could leave {best['refit_fvu']:.3f}"
    best = _middle(next(iter(groups.values())))
    return f"with {best['l0']:.3g} latents {_label(best)} can leave {best['refit_fvu']:.3f} of the variance unexplained"


def _front_words(points: Sequence[Mapping[str, Any]]) -> str:
    own, best = _own(points), _middle(points)
    text = f"at L0 {best['l0']:.1f} on {_label(best)}: lasso {best['fvu']:.3f}, refitted {best['refit_fvu']:.3f}"
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
    colours, labels = _colours(shown), {row["dictionary"]: _label(row) for row in shown}
    figure = Figure(figsize=(style.WIDTH, 4.0))
    axes = figure.add_subplot()
    axes.axhline(_DUPLICATE, color=style.QUIET, linewidth=0.8, linestyle=style.DASHED, zorder=1)
    axes.annotate("nearly the same atom", (0, _DUPLICATE), (4, -3), textcoords="offset points", va="top", color=style.QUIET)
    for row in shown:
        share = [100 * place / (len(row["coherence"]) - 1) for place in range(len(row["coherence"]))]
        axes.plot(share, row["coherence"], color=colours[row["dictionary"]], linewidth=1.5, zorder=2)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("largest |cosine| with another atom")
    first = shown[0]
    middle = first["coherence"][len(first["coherence"]) // 2]
    finding = (
        f"the median atom of {_label(first)} has another at a cosine of {middle:.2f}; "
        f"{first['duplicates']:,} have one that is nearly the same"
    )
    handles = [Line2D([], [], color=colours[name], linewidth=1.5, label=label) for name, label in labels.items()]
    axes.set_xlabel("% of atoms, least coherent first")
    told = [f"median of {_label(row)} {row['coherence'][len(row['coherence']) // 2]:.2f}" for row in shown]
    style.finish(figure, finding, shown, ", ".join(told), handles=handles)
    return figure


def _grouped(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["dictionary"], []).append(row)
    return found


def _colours(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """SAEs by their order, controls by their names."""
    roles = {row["dictionary"]: row["role"] for row in rows}
    mine = [name for name, role in roles.items() if role != "control"]
    return {
        name: labels.colour(name) if role == "control" else _COLOURS[mine.index(name) % len(_COLOURS)]
        for name, role in roles.items()
    }
