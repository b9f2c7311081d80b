"""Figures from rows alone: where recovery is lost, how well dictionaries match, and what survives out of distribution.

Every figure is for the rows of one setting, over its seeds. A figure whose rows lack what it shows (a method that was not run,
a truth that is not known) is None, so that a run on a user's own data draws what it can. Nothing here needs JAX or a display.
"""

import io
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from sae_gap import results, tables

Rows = Iterable[Mapping[str, Any]]
Point = tuple[float, float]

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "hatch.linewidth": 1.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    # Type 42 keeps the text of a PDF selectable, as journals ask.
    "pdf.fonttype": 42,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# In the order of drawing. The colours are Okabe and Ito's, told apart under any of the common colour deficiencies, and Tol's
# muted ones where those run out, which stand beside their names.
_LEARNERS = {
    "linear_probe": ("linear probe", "#7F7F7F"),
    "relu": ("ReLU SAE", "#0072B2"),
    "topk": ("TopK SAE", "#D55E00"),
    "jumprelu": ("JumpReLU SAE", "#009E73"),
    "mp": ("MP SAE", "#CC79A7"),
    "batchtopk": ("BatchTopK SAE", "#999933"),
    "matryoshka": ("Matryoshka SAE", "#AA4499"),
    "gated": ("gated SAE", "#661100"),
    "softplus_adam": ("Softplus-Adam", "#E69F00"),
    "dl_fista": ("DL-FISTA", "#56B4E9"),
    "online_dl": ("online DL", "#332288"),
    "spams": ("SPAMS", "#117733"),
    "sklearn": ("scikit-learn", "#44AA99"),
    "fista_oracle": ("oracle", "#000000"),
}
_METRICS = {"mcc": "MCC", "mcc_paper": "MCC (published form)", "support_f1": "support F1", "auc": "AUC"}
_SPLITS = {"_id": "in distribution", "_ood": "out of distribution"}
_ENCODER, _AMORTISATION, _DICTIONARY = "#BDBDBD", "#0072B2", "#E69F00"


@matplotlib.rc_context(_STYLE)
def decomposition(rows: Rows, metric: str = "mcc_ood") -> Figure | None:
    """Where each SAE loses its distance to the oracle, as stairs from its encoder's score up to the oracle's.

    `S(oracle) - S(encoder) = [S(frozen) - S(encoder)] + [S(oracle) - S(frozen)]`: the amortisation part and the dictionary
    part, with S(frozen) the score of FISTA on the SAE's own dictionary. Either may be negative: a step down, drawn hatched.

    Args:
      rows: rows of one setting; `sae_<name>`, `frozen_<name>` and `fista_oracle` are read.
      metric: the score S, a column of the rows of which more is better.

    Returns:
      The figure, or None where no SAE has all three scores.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    scores = {(row["method"], row.get("seed")): row[metric] for row in rows if row.get(metric) is not None}
    parts = []
    for method, seed in scores:
        learner = _learner(method)
        encoder, frozen, oracle = (scores.get((name, seed)) for name in (method, f"frozen_{learner}", "fista_oracle"))
        if method == f"sae_{learner}" and frozen is not None and oracle is not None:
            steps = {"encoder": encoder, "amortisation": frozen - encoder, "dictionary": oracle - frozen, "oracle": oracle}
            parts.append({"method": learner, "seed": seed} | steps)
    if not parts:
        return None
    bars = tables.summarise(parts, by=("method",), methods=tuple(_LEARNERS))
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    oracle = float(np.mean([bar["oracle_mean"] for bar in bars]))
    axes.axhline(oracle, color="black", linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    axes.axhline(0, color="black", linewidth=0.8)
    for place, bar in enumerate(bars):
        _stairs(axes, place, bar)
    axes.set_xticks(range(len(bars)), [_name(bar["method"]) for bar in bars], fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(-0.6, len(bars) - 0.4)
    axes.margins(y=0.08)
    axes.set_ylabel(f"{_metric_name(metric)} (1 is perfect)")
    axes.annotate(
        f"oracle\n{oracle:.2f}",
        (1, oracle),
        (3, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
    )
    larger = sum(bar["dictionary_mean"] > bar["amortisation_mean"] for bar in bars)
    part, count = ("dictionary", larger) if 2 * larger >= len(bars) else ("encoder", len(bars) - larger)
    _title(axes, f"The {part} holds most of the distance to the oracle in {count} of {len(bars)} SAEs", rows, whiskers=True)
    handles = [
        Patch(facecolor=_ENCODER, label="the SAE's own codes"),
        Patch(facecolor=_AMORTISATION, label="amortisation part"),
        Patch(facecolor=_DICTIONARY, label="dictionary part"),
    ]
    if any(_is_down(bar[f"{part}_mean"]) for bar in bars for part in ("amortisation", "dictionary")):
        handles.append(Patch(facecolor="white", edgecolor="#555555", hatch="////", label="a step down"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.5, handlelength=1.5)
    return figure


def _is_down(step: float) -> bool:
    return step <= -0.005


def _stairs(axes: Axes, place: int, bar: Mapping[str, Any]) -> None:
    width, level = 0.27, 0.0
    steps = {"encoder": _ENCODER, "amortisation": _AMORTISATION, "dictionary": _DICTIONARY}
    for offset, (part, colour) in enumerate(steps.items()):
        left = place + (offset - 1.5) * width
        size, sd = bar[f"{part}_mean"], bar[f"{part}_sd"]
        face: dict[str, Any] = (
            {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if _is_down(size) else {"color": colour}
        )
        axes.bar(left, size, width, level, align="edge", zorder=2, **face)
        top = level + size
        axes.plot([left, left + (2 if offset < 2 else 1) * width], [top, top], color="#333333", linewidth=0.8, zorder=3)
        if sd is not None:
            axes.errorbar(left + width / 2, top, sd, color="#333333", linewidth=0.9, capsize=2, zorder=4)
        # Above whatever is drawn here: the higher end of the step or the upper whisker.
        high = max(level, top + (sd or 0.0))
        text = "0.00" if abs(size) < 0.005 else f"{size:.2f}" if part == "encoder" else f"{size:+.2f}".replace("-", "−")
        axes.annotate(text, (left + width / 2, high), (0, 2), textcoords="offset points", ha="center", va="bottom", zorder=5)
        level = top


@matplotlib.rc_context(_STYLE)
def matched_cosines(rows: Rows) -> Figure | None:
    """How well each learned dictionary matches the true one: the distribution of matched cosines over its atoms.

    Methods that infer on one dictionary share it, so that each dictionary is drawn once; the oracle's is left out.

    Args:
      rows: rows of one setting; `cosines`, the matched absolute cosines of a dictionary, are read.

    Returns:
      The figure, or None where no row has cosines.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    found: dict[str, dict[Any, Sequence[float]]] = {}
    for row in rows:
        if row.get("cosines") and row.get("family") != "oracle":
            found.setdefault(_learner(row["method"]), {}).setdefault(row.get("seed"), row["cosines"])
    if not found:
        return None
    learners = [name for name in _LEARNERS if name in found] + [name for name in found if name not in _LEARNERS]
    figure = Figure(figsize=(6.4, 1.5 + 0.62 * len(learners)))
    axes = figure.add_subplot()
    axes.axvline(0.9, color="#555555", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    shares = {}
    for place, learner in enumerate(learners):
        # A failed fit writes null for a cosine; counted as 0 it lowers the share instead of vanishing from it.
        cosines = np.array([value or 0.0 for values in found[learner].values() for value in values], float).clip(0, 1)
        shares[learner] = float(np.mean(cosines > 0.9))
        _half_violin(axes, place, cosines, _colour(learner))
        axes.annotate(
            f"{shares[learner]:.0%} > 0.9", (1, place), (6, 0), textcoords="offset points", va="center", annotation_clip=False
        )
    axes.set_yticks(range(len(learners)), [_name(learner) for learner in learners], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(learners) - 0.5, -0.75)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("|cosine| of a learned atom with its matched true atom (1 is perfect)\ndot: median, bar: quartiles")
    best, worst = max(shares, key=lambda name: shares[name]), min(shares, key=lambda name: shares[name])
    title = f"{_name(best)} finds {shares[best]:.0%} of the true atoms"
    _title(axes, title if best == worst else f"{title}, {_name(worst)} {shares[worst]:.0%}", rows)
    return figure


def _half_violin(axes: Axes, place: int, cosines: np.ndarray, colour: str) -> None:
    # A histogram, unlike a kernel density, leaks nothing beyond the ends of [0, 1], where the best dictionaries pile up.
    counts, edges = np.histogram(cosines, bins=50 if cosines.size >= 300 else 25, range=(0, 1))
    heights = 0.62 * counts / counts.max()
    axes.stairs(place - heights, edges, baseline=place, fill=True, color=colour, alpha=0.45, linewidth=0, zorder=2)
    axes.stairs(place - heights, edges, baseline=place, color=colour, linewidth=0.8, zorder=2)
    low, median, high = np.quantile(cosines, (0.25, 0.5, 0.75))
    axes.plot([low, high], [place + 0.12] * 2, color=colour, linewidth=3, solid_capstyle="butt", zorder=3, clip_on=False)
    axes.plot(
        median,
        place + 0.12,
        "o",
        color="white",
        markeredgecolor=colour,
        markersize=5.5,
        markeredgewidth=1.6,
        zorder=4,
        clip_on=False,
    )


@matplotlib.rc_context(_STYLE)
def recovery(rows: Rows, metric: str = "mcc") -> Figure | None:
    """Recovery in distribution against recovery out of it: a colour for each dictionary, a marker for each inference.

    Args:
      rows: rows of one setting; `<metric>_id` and `<metric>_ood` are read.
      metric: the score without its split.

    Returns:
      The figure, or None where no method has both scores.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    family = {row["method"]: row.get("family") for row in rows}
    summary = tables.summarise(rows, by=("method",), metrics=(f"{metric}_id", f"{metric}_ood"))
    points = [line for line in summary if line[f"{metric}_id_mean"] is not None and line[f"{metric}_ood_mean"] is not None]
    if not points:
        return None
    figure = Figure(figsize=(6.0, 5.9))
    axes = figure.add_subplot()
    places: dict[str, list[Point]] = {}
    used, whiskers = {}, []
    for line in points:
        learner = _learner(line["method"])
        label, style = _marker(family[line["method"]], _colour(learner))
        used[label] = Line2D([], [], linestyle="none", **_marker(family[line["method"]], "#444444")[1])
        x, y = line[f"{metric}_id_mean"], line[f"{metric}_ood_mean"]
        dx, dy = line[f"{metric}_id_sd"] or 0.0, line[f"{metric}_ood_sd"] or 0.0
        axes.errorbar(x, y, dy, dx, color=_colour(learner), linewidth=0.8, zorder=2)
        axes.plot(x, y, linestyle="none", zorder=3, **style)
        places.setdefault(learner, []).append((x, y))
        whiskers += [((x - dx, y), (x + dx, y)), ((x, y - dy), (x, y + dy))]
    for learner, path in places.items():
        axes.plot(*zip(*path, strict=True), color=_colour(learner), linewidth=0.8, alpha=0.6, zorder=1)
    extent = np.ptp(whiskers)
    low, high = np.min(whiskers) - 0.06 * extent - 0.02, np.max(whiskers) + 0.06 * extent + 0.02
    axes.plot([low, high], [low, high], color="#999999", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"{_metric_name(f'{metric}_id')} (1 is perfect)")
    axes.set_ylabel(f"{_metric_name(f'{metric}_ood')} (1 is perfect)")
    below = sum(line[f"{metric}_ood_mean"] < line[f"{metric}_id_mean"] for line in points)
    _title(axes, f"{below} of {len(points)} methods recover less out of distribution", rows, whiskers=True)
    figure.legend(used.values(), used.keys(), loc="outside lower center", ncols=len(used), columnspacing=1.5)
    _label(figure, axes, places, whiskers)
    return figure


_BUDGETS = {
    "relu": ("ReLU", "#0072B2", "o"),
    "topk": ("TopK", "#D55E00", "^"),
    "jumprelu": ("JumpReLU", "#009E73", "v"),
    "lista": ("LISTA (layers)", "#CC79A7", "D"),
    "fista": ("FISTA (iterations)", "#7F7F7F", "s"),
}


@matplotlib.rc_context(_STYLE)
def budget(rows: Rows) -> Figure | None:
    """What inference on one dictionary leaves of the gap, and what it recovers, out of distribution and against its cost.

    Args:
      rows: rows of one setting with `flops`, `relative_gap_ood` and `mcc_ood`; a method is named by its family, and `lista` and
        `fista` by their number of layers or iterations as well. Without `flops`, `lasso` is drawn as a level.

    Returns:
      The figure, or None where no method has a cost and a gap.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    metrics = ("relative_gap_ood", "mcc_ood")
    summary = tables.summarise(rows, by=("method",), metrics=metrics)
    cost = {row["method"]: row["flops"] for row in rows if row.get("flops")}
    found = [line for line in summary if line["method"] in cost and line["relative_gap_ood_mean"] is not None]
    if not found:
        return None
    figure = Figure(figsize=(6.4, 6.8))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, metrics, strict=True):
        for family, (label, colour, marker) in _BUDGETS.items():
            lines = [line for line in found if line["method"].split("_")[0] == family and line[f"{metric}_mean"] is not None]
            lines.sort(key=lambda line: cost[line["method"]])
            x, y = [cost[line["method"]] for line in lines], [line[f"{metric}_mean"] for line in lines]
            sd = [line[f"{metric}_sd"] or 0.0 for line in lines]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1, "label": label}
            axes.errorbar(x, y, sd, elinewidth=0.8, zorder=2 if family == "fista" else 3, **style)
            for line, place in zip(lines, zip(x, y, strict=True), strict=True):
                # Each curve's numbers on its outer side: a trained network lies below in the gap and above in the MCC.
                side = 1 if family == "fista" else -1
                up = side if axes is panels[0] else -side
                number = axes.annotate(line["method"].partition("_")[2], place, (5 * side, 5 * up), textcoords="offset points")
                number.set(ha="left" if side > 0 else "right", va="bottom" if up > 0 else "top", color=colour, fontsize=7)
        axes.margins(0.1)
    panels[0].set(xscale="log", yscale="log", ylabel="relative amortisation gap, out of distribution")
    panels[1].set_xlabel("floating-point operations a sample")
    panels[1].set_ylabel(f"{_metric_name('mcc_ood')} (1 is perfect)")
    for line in summary:
        if line["method"] == "lasso" and line["mcc_ood_mean"] is not None:
            panels[1].axhline(
                line["mcc_ood_mean"], color="black", linewidth=1, linestyle=(0, (4, 2)), zorder=1, label="certified lasso"
            )
    trained = [line for line in found if not line["method"].startswith("fista")]
    best = min(trained or found, key=lambda line: line["relative_gap_ood_mean"])
    family, _, number = best["method"].partition("_")
    name = _BUDGETS[family][0].split(" (")[0] + (f"-{number}" if number else "") if family in _BUDGETS else family
    _title(
        panels[0],
        f"{name} comes closest of the encoders: {best['relative_gap_ood_mean']:.1%} above the optimum",
        rows,
        whiskers=True,
    )
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), columnspacing=1.2, handlelength=1.8)
    return figure


_HEAT = matplotlib.colormaps["viridis"]


@matplotlib.rc_context(_STYLE)
def recovery_by_samples(rows: Rows, metric: str = "cosine") -> Figure | None:
    """What each learner recovers, over the number of latents and the training samples for each: a panel a learner.

    The dashed line is the counting bound `n > d (m - 1) / (m - 1 - k)` for d atoms in m dimensions, k of them in a sample: with
    fewer samples there are more unknowns than equations, even were the supports known.

    Args:
      rows: rows of one sparsity and noise; `num_latents`, `input_dim`, `sparsity`, `samples_seen` and the metric are read.
      metric: a column of the rows of which more is better and 1 is perfect.

    Returns:
      The figure, or None where there are not two cells to compare.

    Raises:
      ValueError: the rows of a cell mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = [row for row in rows if row.get("family") != "oracle"]
    summary = tables.summarise(rows, by=("method", "num_latents", "samples_seen"), metrics=(metric,))
    found = [line for line in summary if line[f"{metric}_mean"] is not None]
    if len({(line["num_latents"], line["samples_seen"]) for line in found}) < 2:
        return None
    learners = list(dict.fromkeys(line["method"] for line in found))
    widths = sorted({line["num_latents"] for line in found})
    down, across = -(-len(learners) // 4), min(len(learners), 4)
    figure = Figure(figsize=(max(5.6, 1.3 + max(1.3, 0.5 * len(widths)) * across), 1.5 + 2.1 * down))
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel())
    extent = []
    for axes, learner in zip(panels, learners, strict=False):
        axes.set_title(_name(_learner(learner)), loc="left", fontsize=8)
        axes.tick_params(labelbottom=True, length=0)
        for place, size in enumerate(widths):
            column = [line for line in found if (line["method"], line["num_latents"]) == (learner, size)]
            extent += _heat(axes, place, [(line["samples_seen"] / size, line[f"{metric}_mean"]) for line in column])
            free, sparsity = next((row["input_dim"] - 1, row["sparsity"]) for row in rows if row["num_latents"] == size)
            if free > sparsity:
                extent.append(free / (free - sparsity))
                style: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.5, "linestyle": (0, (3, 1))}
                axes.plot([place - 0.5, place + 0.5], extent[-1:] * 2, **style)
    for axes in panels[len(learners) :]:
        axes.remove()
    panels[0].set(yscale="log", xlim=(-0.5, len(widths) - 0.5), ylim=(min(extent) * 0.95, max(extent) * 1.05))
    _round_ticks(panels[0].yaxis)
    panels[0].set_xticks(range(len(widths)), [f"{size:,}" for size in widths])
    colours = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), _HEAT)
    figure.colorbar(
        colours, ax=panels[: len(learners)], label=f"{_metric_name(metric)} (1 is perfect)", aspect=20 * down, pad=0.02
    )
    figure.supylabel("training samples for each latent", fontsize=9)
    note = _note([{name: row.get(name) for name in ("sparsity", "seed")} for row in rows])
    figure.supxlabel(f"number of latents\n{note}; dashed: the counting bound", fontsize=9)
    scores = {name: np.array([line[f"{metric}_mean"] for line in found if line["method"] == name]) for name in learners}
    best = max(scores, key=lambda name: (np.sum(scores[name] > 0.9), scores[name].mean()))
    share = f"{np.sum(scores[best] > 0.9)} of {len(scores[best])} cells"
    title = f"{_name(_learner(best))} recovers the most: {_metric_name(metric)} above 0.9 in {share}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _heat(axes: Axes, place: int, cells: Sequence[Point]) -> list[float]:
    """Draws a column of cells, each a height on the log axis with its score, and returns where they end."""
    edges = _log_edges([height for height, _ in cells])
    for (_, score), low, high in zip(cells, edges, edges[1:], strict=False):
        axes.bar(place, high - low, 1, low, color=_HEAT(score), edgecolor="white", linewidth=0.5)
        ink = "white" if score < 0.6 else "black"
        axes.text(place, (low * high) ** 0.5, f"{score:.2f}", ha="center", va="center", fontsize=7, color=ink)
    return edges


def _log_edges(centres: Sequence[float]) -> list[float]:
    """Edges halfway between ascending centres on a log axis, and as far beyond the outer ones."""
    if len(centres) < 2:
        return [edge for centre in centres for edge in (centre / 2**0.5, centre * 2**0.5)]
    inner = [(low * high) ** 0.5 for low, high in itertools.pairwise(centres)]
    return [centres[0] ** 2 / inner[0], *inner, centres[-1] ** 2 / inner[-1]]


def _round_ticks(axis: Axis) -> None:
    """Ticks of a log axis at 1, 2 and 5 of each decade, or at 1 alone where that would crowd them."""
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [tick for power in range(-6, 9) for step in steps if low <= (tick := step * 10.0**power) <= high]
    axis.set_ticks(ticks, labels=[f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


@matplotlib.rc_context(_STYLE)
def recovery_by_seconds(rows: Rows) -> Figure | None:
    """What each learner recovers, of the dictionary and of the codes out of distribution, against the seconds that it takes.

    Args:
      rows: rows of one setting; `fit_seconds`, `cosine` and `mcc_ood` are read, and the oracle's scores drawn as levels.

    Returns:
      The figure, or None where no learner has a score.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    metrics = ("cosine", "mcc_ood")
    family = {row["method"]: row.get("family") for row in rows}
    summary = tables.summarise(rows, by=("method",), metrics=("fit_seconds", *metrics))
    found = [line for line in summary if None not in (line["fit_seconds_mean"], line["cosine_mean"], line["mcc_ood_mean"])]
    learners = [line for line in found if family[line["method"]] != "oracle"]
    if not learners:
        return None
    figure = Figure(figsize=(6.4, 7.6))
    panels = figure.subplots(2, 1, sharex=True)
    labels = []
    for axes, metric in zip(panels, metrics, strict=True):
        places: dict[str, list[Point]] = {}
        whiskers: list[tuple[Point, Point]] = []
        for line in found:
            name = _learner(line["method"])
            x, y, dy = line["fit_seconds_mean"], line[f"{metric}_mean"], line[f"{metric}_sd"] or 0.0
            if family[line["method"]] == "oracle":
                axes.axhline(y, color="black", linewidth=1, linestyle=(0, (4, 2)), zorder=1)
                axes.annotate(f"oracle {y:.2f}", (1, y), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points")
                axes.texts[-1].set_ha("right")
                continue
            # On a log axis a whisker must not reach zero.
            below, above = min(line["fit_seconds_sd"] or 0.0, 0.9 * x), line["fit_seconds_sd"] or 0.0
            axes.errorbar(x, y, dy, [[below], [above]], color=_colour(name), linewidth=0.8, zorder=2)
            marker = {"dictionary_learning": "s", "peer": "D"}.get(str(family[line["method"]]), "o")
            axes.plot(x, y, marker, markersize=6, color=_colour(name), zorder=3)
            places.setdefault(name, []).append((x, y))
            whiskers += [((x - below, y), (x + above, y)), ((x, y - dy), (x, y + dy))]
        labels.append((axes, places, whiskers))
        axes.margins(y=0.12)
        axes.set_ylabel(f"{_metric_name(metric)} (1 is perfect)")
    ends = [x for ends in labels[0][2] for x, _ in ends]
    margin = max((max(ends) / min(ends)) ** 0.15, 2.0)
    panels[1].set(xscale="log", xlim=(min(ends) / margin, max(ends) * margin))
    _round_ticks(panels[1].xaxis)
    panels[1].set_xlabel("seconds to learn the dictionary, compilation apart")
    best = max(learners, key=lambda line: line["cosine_mean"])
    seconds = best["fit_seconds_mean"]
    spent = f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"
    title = f"{_name(_learner(best['method']))} recovers the most of the dictionary, in {spent} s"
    _title(panels[0], title, rows, whiskers=True)
    kinds = {"dictionary_learning": ("dictionary learning", "s"), "peer": ("other libraries", "D"), "sae": ("SAE", "o")}
    handles = [
        Line2D([], [], linestyle="none", marker=marker, markersize=6, color="#444444", label=label)
        for kind, (label, marker) in kinds.items()
        if kind in {family[line["method"]] for line in learners}
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.5)
    for label in labels:
        _label(figure, *label)
    return figure


def _marker(family: str | None, colour: str) -> tuple[str, dict[str, Any]]:
    if family == "refined":
        # Refinement and FISTA from zero reach one optimum: a wide hollow marker lets the other show inside it.
        return "FISTA from those codes", {"marker": "D", "markersize": 10, "markerfacecolor": "none", "markeredgecolor": colour}
    if family in ("frozen", "dictionary_learning", "oracle"):
        return "FISTA from zero", {"marker": "s", "markersize": 5, "color": colour}
    return "the learner's own encoder", {"marker": "o", "markersize": 6.5, "color": colour}


def _label(figure: Figure, axes: Axes, places: Mapping[str, Sequence[Point]], whiskers: Sequence[tuple[Point, Point]]) -> None:
    """Names each dictionary beside one of its points, at the nearest spot clear of points, whiskers and other labels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    pixel = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    spots = axes.transData.transform([place for path in places.values() for place in path])
    taken = [Bbox([spot - 7 * pixel, spot + 7 * pixel]) for spot in spots]
    taken += [Bbox(axes.transData.transform(ends)).padded(pixel) for ends in whiskers]
    angles = np.deg2rad([0, 180, 90, 270, 45, 135, 225, 315])
    offsets = [(reach * np.cos(angle), reach * np.sin(angle)) for reach in (10, 16, 24, 34, 46, 60) for angle in angles]
    for learner, path in places.items():
        best: tuple[float, Annotation | None, Bbox] = (np.inf, None, frame)
        for place, (right, up) in [(place, offset) for offset in offsets for place in path]:
            text = axes.annotate(_name(learner), place, (right, up), textcoords="offset points", color=_colour(learner))
            text.set(ha="left" if right > 1 else "right" if right < -1 else "center", va="center", fontweight="bold")
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
            box = text.get_window_extent(renderer).padded(pixel)
            outside = not (frame.contains(*box.min) and frame.contains(*box.max))
            clashes = box.count_overlaps(taken) + 1_000 * outside
            if clashes < best[0]:
                if best[1] is not None:
                    best[1].remove()
                best = clashes, text, box
            else:
                text.remove()
            if clashes == 0:
                break
        taken.append(best[2])


def save(figure: Figure, stem: str | os.PathLike[str]) -> list[Path]:
    """Writes a figure as `<stem>.png` and `<stem>.pdf`, each replaced whole; equal figures give equal bytes.

    Args:
      figure: the figure.
      stem: the path without its ending; its folder must exist.

    Returns:
      The two paths.

    Raises:
      OSError: the folder cannot be written to.
    """
    paths = []
    undated = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
    for ending, metadata in undated.items():
        content = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            figure.savefig(content, format=ending, dpi=200, metadata=metadata)
        paths.append(Path(f"{os.fspath(stem)}.{ending}"))
        results.write_atomically(paths[-1], content.getvalue())
    return paths


def _learner(method: str) -> str:
    for prefix in ("sae_", "frozen_", "refined_"):
        method = method.removeprefix(prefix)
    return method


def _name(learner: str) -> str:
    return _LEARNERS.get(learner, (learner.replace("_", " "), ""))[0]


def _colour(learner: str) -> str:
    return _LEARNERS.get(learner, ("", "#8C564B"))[1]


def _metric_name(metric: str) -> str:
    split = next((suffix for suffix in _SPLITS if metric.endswith(suffix)), "")
    stem = metric.removesuffix(split)
    return f"{_METRICS.get(stem, stem.replace('_', ' '))} {_SPLITS.get(split, '')}".strip()


def _title(axes: Axes, title: str, rows: Sequence[Mapping[str, Any]], *, whiskers: bool = False) -> None:
    note = _note(rows)
    note += "; whiskers: ± 1 sd" if whiskers and not note.endswith("1 seed") else ""
    axes.set_title(title, loc="left", pad=20)
    axes.annotate(note, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", color="#555555")


def _note(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sizes that all rows share, and the number of seeds."""
    words = {"num_latents": "latents", "sparsity": "active", "input_dim": "dimensions", "num_samples": "samples"}
    shared = {name: values.pop() for name in words if len(values := {row.get(name) for row in rows}) == 1}
    notes = [f"{value:,} {words[name]}" for name, value in shared.items() if value is not None]
    seeds = len({row.get("seed") for row in rows})
    return ", ".join([*notes, "1 seed" if seeds == 1 else f"{seeds} seeds"])
