"""The parts of a loss: stacked bars of an SAE each, and a table of shares along each size."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sae_gap.analysis import LOSSES, over, shares
from sae_gap.figures import MARKERS, codes_label, labels, looks_of, style, trained_name
from sae_gap.storage import CELL, Row, grouped

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
# From all the dictionary's to all the encoder's.
_SHARES = LinearSegmentedColormap.from_list(
    "shares", [PARTS["dictionary_part"][1], "white", PARTS["values_part"][1]]
)


@style.styled
def stacked(
    bars: Iterable[tuple[str, str, Mapping[str, Any]]],
    lines: style.Lines,
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
    figure = Figure(figsize=(style.WIDTH, 1.3 + 0.42 * len(names)))
    axes = figure.add_subplot()
    longest = 1e-6
    used = []
    for place, line in enumerate(drawn):
        left = reach = 0.0
        for part, (_, colour) in parts.items():
            if line.get(part) is None:
                continue
            used.append(part)
            axes.barh(place, max(0.0, line[part]), 0.62, left, color=colour)
            name = part.removesuffix("_part")
            ends = np.array(
                [line.get(f"{name}_{end}") for end in ("low", "high")], float
            )
            if np.isfinite(ends).all():
                axes.plot(left + ends, [place, place], color="black", linewidth=0.9)
                reach = left + ends[1]
            left += max(0.0, line[part])
        text = axes.annotate(
            f" {words[place]}", (max(left, reach), place), va="center", zorder=4
        )
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        longest = max(longest, left)
    style.name_along(axes.yaxis, names)
    axes.invert_yaxis()
    # Leave room for the words beside the longest bar.
    axes.set_xlim(0, 1.5 * longest)
    axes.set_xlabel(xlabel)
    handles = [style.swatch(*look) for part, look in parts.items() if part in used]
    style.finish(figure, lines, handles, title=title, more=more)
    return figure


def gap_parts(lines: style.Rows) -> Figure | None:
    """Draws the parts of each encoder's gap in the lasso's objective F, in per cent of the optimum.

    Args:
      lines: the result of `sae_gap.measure.gap_lines`; lines without an encoder are left out.

    Returns:
      The figure, or None if there is no encoder.
    """
    bars = []
    for line in lines:
        if line.get("relative_gap") is not None:
            parts = {
                name: 100 * line[name] for name in PARTS if name.endswith("_share")
            }
            sizes = " + ".join(f"{part:.1f}" for part in parts.values())
            bars.append(
                (
                    line["dictionary"],
                    f"{100 * line['relative_gap']:.1f} % = {sizes}",
                    parts,
                )
            )
    if not bars:
        return None
    return stacked(
        bars,
        [*lines],
        "F(own codes) − F(optimum), % of F(optimum)",
        "The gap of the lasso's objective: scale, refit, other support",
    )


def loss_parts(lines: style.Lines, loss: str = "kl") -> Figure | None:
    """Draws what each SAE loses, stacked: values, support, dictionary and rest.

    Args:
      lines: the result of `sae_gap.analysis.parts.splits`.
      loss: which of them to draw.

    Returns:
      The figure, or None if no SAE was split. The bars of a score are distances to the oracle:
      they leave out the oracle's own loss, the rest.
    """
    shown = sorted(
        (line for line in lines if line["loss"] == loss), key=lambda line: line["total"]
    )
    if not shown:
        return None
    real = loss in LOSSES
    bars = []
    for line in shown:
        # Of a score the distance to the oracle is what encoder and dictionary share.
        share = shares(line, *(() if real else ("encoder", "dictionary"))).split(",")[0]
        hidden = {"amortisation_part": None} if line["values_part"] is not None else {}
        name = labels.label(line["dictionary"])
        whole = line["total"]
        if real:
            name = f"{trained_name(line['dictionary'])}, L0 {line['l0']:.0f}"
        else:
            hidden["rest"] = None
            whole -= line["rest"]
        bars.append((name, f"{whole:.3f}, {share}", line | hidden))
    xlabel = f"distance to the oracle in {labels.metric_label(loss)}"
    if real:
        xlabel = LOSSES[loss].label + ", nats a token" * (
            LOSSES[loss].shares == "tokens"
        )
    more = (
        f"intervals of 95 % {over(shown[0]['units'], 'document' if real else 'seed')}"
    )
    return stacked(bars, shown, xlabel, "What each SAE loses, and where it goes", more)


def together(lines: style.Lines) -> Figure:
    """Draws the KL of SAEs of several layers, for each codes two bars: each alone, stacked, and all
    together.

    Args:
      lines: the result of `sae_gap.measure.put_back_together`.
    """
    bars = []
    names = dict.fromkeys(line["replaced"] for line in lines)
    for (name,), (*alone, summed, whole) in grouped(lines, ("codes",)).items():
        for words, total, some in (
            ("alone", summed, alone),
            ("together", whole, [whole]),
        ):
            bar: Any = {}
            for line in some:
                part = line["replaced"]
                kl = line["kl"]
                half = line["kl_half"]
                bar |= {part: kl, f"{part}_low": kl - half, f"{part}_high": kl + half}
            bars.append((f"{codes_label(name)}, {words}", f"{total['kl']:.3f}", bar))
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0, 0.6, len(names)))
    looks = dict(zip(names, zip(names, shades, strict=True), strict=True))
    return stacked(
        bars,
        [],
        "KL, nats a token",
        "What SAEs of several layers cost, alone and together",
        f"intervals of 95 % {over(lines[0]['documents'], 'document')}",
        looks,
    )


@style.styled
def encoder_shares(lines: style.Lines, loss: str) -> Figure | None:
    """Draws the share of each SAE's distance to the oracle that is its encoder's, as tables with
    coloured cells: a row an SAE, and a table for each size that varies while the others keep their
    most common value.

    Args:
      lines: the result of `sae_gap.analysis.parts.splits`.
      loss: which of them to draw.

    Returns:
      The figure, or None if no size varies.
    """
    # Half of the samples are for training, but for a stream.
    shown = [
        line | {"num_train": line["num_samples"] // (2 - bool(line.get("stream")))}
        for line in lines
        if line["loss"] == loss
    ]
    base = {
        size: collections.Counter(line[size] for line in shown).most_common(1)[0][0]
        for size in (*CELL[:-1], "num_train")
        if shown
    }
    tables = {}
    for size in base:
        cells = [
            line
            for line in shown
            if all(line[name] == base[name] for name in base if name != size)
        ]
        if len({line[size] for line in cells}) > 1:
            tables[size] = cells
    if not tables:
        return None
    names = sorted({line["dictionary"] for line in shown}, key=labels.rank)
    figure = Figure(
        figsize=(style.WIDTH, 1.0 + len(tables) * (0.7 + 0.22 * len(names)))
    )
    drawn = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axes, (size, cells) in zip(drawn, tables.items(), strict=True):
        sizes = sorted({line[size] for line in cells})
        table = np.full((len(names), len(sizes)), np.nan)
        for line in cells:
            table[names.index(line["dictionary"]), sizes.index(line[size])] = _share(
                line
            )
        axes.imshow(table, _SHARES, vmin=0, vmax=100, aspect="auto")
        for (down, across), value in np.ndenumerate(table):
            text = f"{value:.0f}" if np.isfinite(value) else ""
            axes.text(across, down, text, ha="center", va="center", fontsize=8)
        style.name_along(
            axes.yaxis, [labels.label(name).removesuffix(" SAE") for name in names]
        )
        style.name_along(axes.xaxis, [f"{value:,}" for value in sizes])
        others = [labels.label(base[name], name) for name in base if name != size]
        axes.set_title(f"{labels.metric_label(size)} ({', '.join(others)})", loc="left")
    title = f"The encoder's % of what each SAE lacks in {labels.metric_label(loss)}"
    style.finish(
        figure, shown, title=title, more=f"means over {shown[0]['units']} seeds"
    )
    return figure


@style.styled
def training_budget(lines: style.Lines) -> Figure:
    """Draws the encoder's share of what SAEs lack in a score against the share of atoms found, a
    line an SAE, and the parts of nats against steps.

    Args:
      lines: lines of `sae_gap.analysis.parts.splits`, in the order of steps, with their `panel`: of
        drawn data with `atoms_found`, others with `steps`.
    """
    groups = grouped(lines, ("panel",))
    handles: dict[str, Any] = {}
    figure, every = style.panels([name for (name,) in groups], 1.8, 2.2, ("", ""))
    names = {line["dictionary"] for line in lines if "steps" not in line}
    looks = looks_of(names, "dictionary", MARKERS)
    for axes, group in zip(every, groups.values(), strict=True):
        if "steps" in group[0]:
            steps = [line["steps"] for line in group]
            below = np.zeros(len(group))
            for part in ("amortisation_part", "dictionary_part", "rest"):
                above = below + [max(0.0, line[part]) for line in group]
                axes.fill_between(steps, below, above, color=PARTS[part][1])
                handles[part] = style.swatch(*PARTS[part])
                below = above
            style.log_axis(axes.xaxis, steps)
            axes.set(xlabel="steps", ylabel="KL, nats a token")
            continue
        for (name,), path in grouped(group, ("dictionary",)).items():
            points = [(line["atoms_found"], _share(line)) for line in path]
            looks[name]["color"] = labels.colour(name.removeprefix("tuned_"))
            (handles[name],) = axes.plot(*zip(*points, strict=True), **looks[name])
        axes.set(xlabel="share of atoms found", ylabel="encoder's share, %")
    style.finish(
        figure,
        lines,
        [*handles.values()],
        title="Encoder and dictionary along training",
    )
    return figure


def _share(line: Row) -> float:
    parts = [max(0.0, line[f"{name}_part"]) for name in ("amortisation", "dictionary")]
    return 100 * parts[0] / sum(parts) if any(parts) else float("nan")
