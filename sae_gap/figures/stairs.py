"""Where recovery is lost: stairs from an encoder's own score up to the oracle's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sae_gap.figures import labels, style, tables
from sae_gap.figures.decompose import decompositions

# The two parts of the amortisation part are its blue, lighter and darker.
_STEPS = {
    "encoder": ("the encoder's own codes", "#BDBDBD"),
    "values_part": ("values part", "#56B4E9"),
    "support_part": ("support part", "#0072B2"),
    "amortisation_part": ("amortisation part", "#0072B2"),
    "dictionary_part": ("dictionary part", "#E69F00"),
}
_ACROSS = 4
# What two decimals do not show is no step.
_STEP = 0.005


@style.styled
def decomposition(rows: style.Rows, metric: str = "mcc_ood") -> Figure | None:
    """Where each encoder loses its distance to the oracle, as stairs from its own score up to the oracle's.

      S(oracle) - S(encoder) = [S(support) - S(encoder)] + [S(frozen) - S(support)] + [S(oracle) - S(frozen)]

    The values part, the support part and the dictionary part, as `study.decompose` has them; without rows of the best values
    on the own support, the first two are one, the amortisation part. Any may be negative: a step down, drawn hatched.

    Args:
      rows: rows of one setting; `dictionary`, `inference`, `start` and the metric are read.
      metric: the score S, a column of the rows of which more is better.

    Returns:
      The figure, or None where no encoder has the three scores that two parts need.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    bars = tables.summarise(decompositions(rows, metric), by=("dictionary",))
    if not bars:
        return None
    bars.sort(key=lambda bar: labels.rank(bar["dictionary"]))
    across, down = style.layout(len(bars), _ACROSS)
    figure = Figure(figsize=(style.WIDTH, 1.3 + 3.0 * down if down > 1 else 4.3))
    panels = figure.subplots(down, 1, sharey=True, squeeze=False)[:, 0]
    oracle = float(np.mean([bar["oracle_mean"] for bar in bars]))
    for panel, axes in enumerate(panels):
        style.level(axes, oracle)
        axes.axhline(0, color="black", linewidth=0.8)
        shown = bars[panel * across : (panel + 1) * across]
        for place, bar in enumerate(shown):
            _stairs(axes, place, bar)
        axes.set_xticks(range(len(shown)), [labels.label(bar["dictionary"]) for bar in shown], fontsize=9)
        axes.tick_params(axis="x", length=0)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlim(-0.52, across - 0.48)
        axes.margins(y=0.08)
        beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"oracle\n{oracle:.2f}", (1, oracle), (3, 0), **beside)
    finding = _finding(bars)
    drawn = [step for step in _STEPS if any(step in _steps(bar) for bar in bars)]
    handles = [Patch(facecolor=_STEPS[step][1], label=_STEPS[step][0]) for step in drawn]
    if any(_is_down(bar[f"{step}_mean"]) for bar in bars for step in _steps(bar)):
        handles.append(Patch(facecolor="white", edgecolor=style.QUIET, hatch="////", label="a step down"))
    told = f"{labels.metric_label(metric)}, oracle {oracle:.2f}", "; ".join(map(_in_words, bars))
    style.finish(figure, finding, rows, *told, deviation="whiskers", handles=handles, side=style.axis_label(metric))
    return figure


def _finding(bars: Sequence[Mapping[str, Any]]) -> str:
    short = [bar for bar in bars if bar["oracle_mean"] - bar["encoder_mean"] >= _STEP]
    if not short:
        return "No SAE falls short of the oracle"
    larger = sum(bar["dictionary_part_mean"] > bar["amortisation_part_mean"] for bar in short)
    part, count = ("dictionary", larger) if 2 * larger >= len(short) else ("encoder", len(short) - larger)
    if len(bars) == 1:
        return f"The {part} holds most of the distance of {labels.label(bars[0]['dictionary'])} to the oracle"
    return f"The {part} holds most of the distance to the oracle in {count} of {len(bars)} SAEs"


def _steps(bar: Mapping[str, Any]) -> list[str]:
    if bar.get("support_mean") is None:
        return ["encoder", "amortisation_part", "dictionary_part"]
    return ["encoder", "values_part", "support_part", "dictionary_part"]


def _in_words(bar: Mapping[str, Any]) -> str:
    parts = [f"{_STEPS[step][0]} {style.number(bar[f'{step}_mean'], signed=True)}" for step in _steps(bar)[1:]]
    return f"{labels.label(bar['dictionary'])}: own codes {style.number(bar['encoder_mean'])}, {', '.join(parts)}"


def _is_down(step: float) -> bool:
    return step <= -_STEP


def _stairs(axes: Axes, place: int, bar: Mapping[str, Any]) -> None:
    steps = _steps(bar)
    width, level = 0.94 / len(steps), 0.0
    for offset, part in enumerate(steps):
        left, size, sd = place + (offset - len(steps) / 2) * width, bar[f"{part}_mean"], bar[f"{part}_sd"]
        colour, hatch = _STEPS[part][1], "////" if _is_down(size) else None
        face, edge = ("white", colour) if hatch else (colour, "none")
        axes.bar(left, size, width, level, align="edge", zorder=2, facecolor=face, edgecolor=edge, hatch=hatch)
        top = level + size
        reach = 2 if offset < len(steps) - 1 else 1
        axes.plot([left, left + reach * width], [top, top], color=style.INK, linewidth=0.8, zorder=3)
        if sd is not None:
            axes.errorbar(left + width / 2, top, sd, color=style.INK, linewidth=0.9, capsize=2, zorder=4)
        # Above whatever is drawn here: the higher end of the step or the upper whisker.
        high = max(level, top + (sd or 0.0))
        text = style.number(size, signed=part != "encoder")
        axes.annotate(
            text, (left + width / 2, high), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=7, zorder=5
        )
        level = top
