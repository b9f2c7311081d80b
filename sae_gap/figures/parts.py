"""The parts of a loss: stacked bars of an SAE each, and a table of shares along each size."""

from collections.abc import Iterable, Mapping
from statistics import mode
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy import isfinite

from sae_gap.analysis import LOSSES, over, shares
from sae_gap.figures import codes_label, labels, trained_name
from sae_gap.figures.labels import metric_label, rank
from sae_gap.figures.style import (
    DASHED,
    QUIET,
    WIDTH,
    Lines,
    Rows,
    finish,
    log_axis,
    name_along,
    name_ends,
    panels,
    styled,
    swatch,
)
from sae_gap.storage import Row, grouped

# Values and support are the encoder's, in a lighter and a darker blue.
PARTS = {
    "scale_share": ("one scale of all codes", "#BDBDBD"),
    "values_share": ("refit on the encoder's support", "#CC79A7"),
    "support_share": ("another support", "#882255"),
    "values_part": ("values", "#56B4E9"),
    "support_part": ("support", "#0072B2"),
    "amortisation_part": ("values and support", "#0072B2"),
    "dictionary_part": ("dictionary", "#E69F00"),
    "rest": ("rest, with the best codes on the best dictionary", "#BDBDBD"),
}
_SIZES = ("num_latents", "sparsity", "num_train")
# Lines of SAEs that were tuned, and of those with the paper's options.
_TUNED: Any = {"linestyle": "-", "marker": "o", "markersize": 3}
_UNTUNED: Any = {"linestyle": DASHED, "linewidth": 0.9}
# From all the dictionary's to all the encoder's.
_SHARES = LinearSegmentedColormap.from_list(
    "shares", [PARTS["dictionary_part"][1], "white", PARTS["values_part"][1]]
)


@styled
def stacked(
    bars: Iterable[tuple[str, str, Mapping[str, Any]]],
    lines: Lines,
    xlabel: str,
    title: str,
    more: str = "",
    parts: Mapping[str, tuple[str, Any]] = PARTS,
) -> Figure:
    """Draws a bar a line, the parts that the line has one after another.

    Args:
      bars: the name of each bar, the words at its end, and its line: a negative part takes no room,
        and a whisker is the 95 % interval, `<part>_low` to `<part>_high`.
      lines: what the figure is of.
      xlabel: label of the axis.
      title: says what is drawn.
      more: further conditions.
      parts: the label and the colour of each part.
    """
    names, words, drawn = zip(*bars, strict=True)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.42 * len(names)))
    axes = figure.add_subplot()
    longest = 1e-6
    used = []
    for place, line in enumerate(drawn):
        left = 0.0
        reach = 0.0
        for part, (_, colour) in parts.items():
            if line.get(part) is None:
                continue
            used.append(part)
            axes.barh(place, max(0.0, line[part]), 0.62, left, color=colour)
            name = part.removesuffix("_part")
            ends = np.array([line.get(f"{name}_low"), line.get(f"{name}_high")], float)
            if isfinite(ends).all():
                axes.plot(left + ends, [place, place], color="black", linewidth=0.9)
                reach = left + ends[1]
            left += max(0.0, line[part])
        text = axes.annotate(
            f" {words[place]}", (max(left, reach), place), va="center", zorder=4
        )
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        longest = max(longest, left)
    name_along(axes.yaxis, names)
    axes.invert_yaxis()
    # Leave room for the words beside the longest bar.
    axes.set_xlim(0, 1.5 * longest)
    axes.set_xlabel(xlabel)
    handles = [swatch(*look) for part, look in parts.items() if part in used]
    finish(figure, lines, handles, title=title, more=more)
    return figure


def gap_parts(lines: Rows) -> Figure | None:
    """Draws the parts of each encoder's gap in the lasso's objective F, in per cent of the optimum.

    Args:
      lines: the result of `sae_gap.measure.gap_lines`; lines without an encoder are left out.

    Returns:
      The figure, or None if there is no encoder.
    """
    names = [name for name in PARTS if name.endswith("_share")]
    bars = []
    for line in lines:
        if line.get("relative_gap") is not None:
            parts = {name: 100 * line[name] for name in names}
            sizes = " + ".join(f"{part:.1f}" for part in parts.values())
            words = f"{100 * line['relative_gap']:.1f} % = {sizes}"
            bars.append((line["dictionary"], words, parts))
    if not bars:
        return None
    return stacked(
        bars,
        [*lines],
        "F(own codes) − F(optimum), % of F(optimum)",
        "The gap of the lasso's objective: scale, refit, other support",
    )


def loss_parts(lines: Lines, loss: str = "kl", where: str = "") -> Figure | None:
    """Draws what each SAE loses, stacked: values, support, dictionary and rest.

    Args:
      lines: the result of `sae_gap.analysis.parts.splits`.
      loss: which of them to draw.
      where: the model and the block of the SAEs.

    Returns:
      The figure, or None if no SAE was split. The bars of a score are distances to the oracle:
      they leave out the oracle's own loss, the rest.
    """
    shown = [line for line in lines if line["loss"] == loss]
    shown.sort(key=lambda line: line["total"])
    if not shown:
        return None
    known = LOSSES.get(loss)
    if not known:
        bars = [_distance(line) for line in shown]
        xlabel = f"distance to the oracle in {metric_label(loss)}"
        unit = "seed"
        lost = xlabel
    else:
        bars = [_loss(line) for line in shown]
        per_token = ", nats a token" if known.shares == "tokens" else ""
        xlabel = known.label + per_token
        unit = "document"
        lost = known.label
    place = f" ({where})" if where else ""
    title = f"Parts of each SAE's {lost}{place}"
    more = f"whiskers: 95 % {over(shown[0]['units'], unit)}"
    return stacked(bars, shown, xlabel, title, more)


def _loss(line: Row) -> tuple[str, str, Row]:
    """The bar of a loss."""
    name = f"{trained_name(line['dictionary'])}, L0 {line['l0']:.0f}"
    share = shares(line).split(",")[0]
    return name, f"{line['total']:.3f}, {share}", _split(line)


def _distance(line: Row) -> tuple[str, str, Row]:
    """The bar of a distance to the oracle, which encoder and dictionary share."""
    distance = line["total"] - line["rest"]
    share = shares(line, "encoder", "dictionary").split(",")[0]
    name = labels.label(line["dictionary"])
    return name, f"{distance:.3f}, {share}", _split(line) | {"rest": None}


def _split(line: Row) -> Row:
    """The line without the sum of values and support, where both are known."""
    return line if line["values_part"] is None else line | {"amortisation_part": None}


def together(lines: Lines) -> Figure:
    """Draws the KL of SAEs of several layers, for each codes two bars: each alone, stacked, and all
    together.

    Args:
      lines: the result of `sae_gap.measure.put_back_together`.
    """
    bars: list[tuple[str, str, Row]] = []
    names = dict.fromkeys(line["replaced"] for line in lines)
    for (codes,), (*alone, summed, whole) in grouped(lines, ("codes",)).items():
        label = codes_label(codes)
        bars.append((f"{label}, alone", f"{summed['kl']:.3f}", _kl_parts(alone)))
        bars.append((f"{label}, together", f"{whole['kl']:.3f}", _kl_parts([whole])))
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0, 0.6, len(names)))
    looks = {name: (name, shade) for name, shade in zip(names, shades, strict=True)}
    return stacked(
        bars,
        [],
        "KL, nats a token",
        "What SAEs of several layers cost, alone and together",
        f"whiskers: 95 % {over(lines[0]['documents'], 'document')}",
        looks,
    )


def _kl_parts(lines: Lines) -> Row:
    """A part for each line, with the ends of its interval."""
    parts: Row = {}
    for line in lines:
        name = line["replaced"]
        parts[name] = line["kl"]
        parts[f"{name}_low"] = line["kl"] - line["kl_half"]
        parts[f"{name}_high"] = line["kl"] + line["kl_half"]
    return parts


@styled
def encoder_shares(lines: Lines, loss: str) -> Figure | None:
    """Draws the share of each SAE's distance to the oracle that is its encoder's, as tables with
    coloured cells: a row an SAE, and a table for each size that varies while the others keep their
    most common value.

    Args:
      lines: the result of `sae_gap.analysis.parts.splits`.
      loss: which of them to draw.

    Returns:
      The figure, or None if no size varies.
    """
    # Half of the samples are for training, but all of a stream.
    shown = [
        line | {"num_train": line["num_samples"] // (1 if line.get("stream") else 2)}
        for line in lines
        if line["loss"] == loss
    ]
    tables = _along_sizes(shown)
    if not tables:
        return None
    names = sorted({line["dictionary"] for line in shown}, key=rank)
    tall = 1.0 + len(tables) * (0.7 + 0.22 * len(names))
    figure = Figure(figsize=(WIDTH, tall))
    drawn = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axes, (size, cells) in zip(drawn, tables.items(), strict=True):
        sizes = sorted({line[size] for line in cells})
        table = np.full((len(names), len(sizes)), np.nan)
        for line in cells:
            place = names.index(line["dictionary"]), sizes.index(line[size])
            table[place] = _share(line)
        axes.imshow(table, _SHARES, vmin=0, vmax=100, aspect="auto")
        for (down, across), value in np.ndenumerate(table):
            text = f"{value:.0f}" if isfinite(value) else ""
            axes.text(across, down, text, ha="center", va="center", fontsize=8)
        short = [labels.label(name).removesuffix(" SAE") for name in names]
        name_along(axes.yaxis, short)
        name_along(axes.xaxis, [f"{value:,}" for value in sizes])
        first = cells[0]
        others = [labels.label(first[name], name) for name in _SIZES if name != size]
        axes.set_title(f"{metric_label(size)} ({', '.join(others)})", loc="left")
    title = f"The encoder's % of what each SAE lacks in {metric_label(loss)}"
    more = f"means over {shown[0]['units']} seeds"
    finish(figure, shown, title=title, more=more)
    return figure


def _along_sizes(lines: Lines) -> dict[str, list[Row]]:
    """For each size that varies the lines in which all others have their most common value."""
    usual = {size: mode(line[size] for line in lines) for size in _SIZES if lines}
    tables = {}
    for size in usual:
        cells = [
            line
            for line in lines
            if all(line[name] == usual[name] for name in usual if name != size)
        ]
        if len({line[size] for line in cells}) > 1:
            tables[size] = cells
    return tables


@styled
def training_budget(lines: Lines) -> Figure:
    """Draws the encoder's share of what SAEs lack in a score against the share of atoms found, a
    colour a method, and the parts of nats against steps.

    Args:
      lines: lines of `sae_gap.analysis.parts.splits`, in the order of steps, with their `panel`: of
        drawn data with `atoms_found`, others with `steps`.
    """
    groups = grouped(lines, ("panel",))
    figure, every = panels([name for (name,) in groups], 2.4, 2.6, ("", ""))
    handles: dict[str, Any] = {}
    for axes, group in zip(every, groups.values(), strict=True):
        draw = _nats if "steps" in group[0] else _shares
        handles |= draw(axes, group)
    finish(
        figure,
        lines,
        [*handles.values()],
        title="Encoder and dictionary along training",
        more="a point a snapshot, means over seeds",
    )
    return figure


def _nats(axes: Axes, lines: Lines) -> dict[str, Any]:
    """Draws the parts of nats along steps, and returns entries of the legend."""
    steps = [line["steps"] for line in lines]
    below = np.zeros(len(lines))
    handles = {}
    for part in ("amortisation_part", "dictionary_part", "rest"):
        above = below + [max(0.0, line[part]) for line in lines]
        axes.fill_between(steps, below, above, color=PARTS[part][1])
        handles[part] = swatch(*PARTS[part])
        below = above
    log_axis(axes.xaxis, steps)
    axes.set(xlabel="steps", ylabel="KL, nats a token")
    return handles


def _shares(axes: Axes, lines: Lines) -> dict[str, Any]:
    """Draws shares along atoms found, each method's name at the end of its line, and returns
    entries of the legend.
    """
    ends = {}
    handles = {}
    paths = grouped(lines, ("dictionary",))
    for (name,), path in paths.items():
        method = name.removeprefix("tuned_")
        kind = "the paper's options" if method == name else "tuned"
        found = [line["atoms_found"] for line in path]
        heights = [_share(line) for line in path]
        colour = labels.colour(method)
        look = _TUNED if kind == "tuned" else _UNTUNED
        axes.plot(found, heights, color=colour, **look)
        handles[kind] = Line2D([], [], color=QUIET, label=kind, **look)
        # The name stands once, at the tuned line where there is one.
        if kind == "tuned" or (f"tuned_{name}",) not in paths:
            label = labels.label(method).removesuffix(" SAE")
            ends[label] = found[-1], heights[-1], colour
    axes.set(xlabel="share of atoms found", ylabel="encoder's share, %", ylim=(-3, 103))
    axes.set_xlim(0, 1.02)
    name_ends(axes, ends)
    return handles


def _share(line: Row) -> float:
    parts = [max(0.0, line[f"{name}_part"]) for name in ("amortisation", "dictionary")]
    return 100 * parts[0] / sum(parts) if any(parts) else float("nan")
