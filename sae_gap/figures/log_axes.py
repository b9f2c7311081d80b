"""Logarithmic axes: where they begin, round ticks that do not crowd, and a place for zero."""

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis, YAxis

from sae_gap.figures.style import inches

# Names are drawn to the letter, so that no figure reads the formulas of TeX.
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def round_ticks(axis: Axis, *, zero: bool = False) -> None:
    """Ticks of a log axis at 1, 2 and 5 of each decade, or at 1 alone where that would crowd them; at 0 too if it has one."""
    low, high = sorted(axis.get_view_interval())
    least = axis.get_transform().linthresh if zero else low  # type: ignore[attr-defined]
    span = high / max(least, 1e-300)
    steps: Sequence[float] = (1, 2, 5) if span < 200 and _fits(axis, math.log10(span) + zero, high) else (1,)
    powers = range(math.floor(math.log10(max(least, 1e-300))), math.ceil(math.log10(high)) + 1)
    # Labels of many decades would cover one another, so only each second or third is kept.
    stride = max(1, -(-len(powers) // 8))
    ticks = [tick for power in powers if power % stride == 0 for step in steps if least <= (tick := step * 10.0**power) <= high]
    if len(ticks) < 2:
        ticks = [tick for power in powers for step in (1, 1.5, 2, 3, 5, 7) if least <= (tick := step * 10.0**power) <= high]
    axis.set_ticks(([0.0] if zero else []) + ticks, labels=(["0"] if zero else []) + [_tick(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def _fits(axis: Axis, decades: float, high: float) -> bool:
    """Whether the labels at 1, 2 and 5 have room beside one another; above one another they always have."""
    if isinstance(axis, YAxis) or decades <= 0:
        return True
    panel = axis.axes.get_subplotspec()
    columns = 1 if panel is None else panel.get_gridspec().ncols
    room = 0.8 * axis.get_figure(root=True).get_figwidth() / columns  # type: ignore[union-attr]
    return bool(room / decades * math.log10(2) > inches([_tick(10.0 ** math.floor(math.log10(high)))], 8) + 0.05)


def _tick(value: float) -> str:
    if 1e-3 <= value < 1e6:
        return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:g}"
    power = math.floor(math.log10(value) + 1e-9)
    lead = round(value / 10.0**power)
    return ("" if lead == 1 else f"{lead}×") + f"10{str(power).translate(_SUPERSCRIPTS)}"


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Makes an axis logarithmic; zero, if it is among the values, has its place half a decade left of the least other one."""
    axis, set_scale = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    positive = [value for value in values if value > 0]
    if positive:
        zero = len(positive) < len(values)
        if zero:
            set_scale("symlog", linthresh=min(positive), linscale=0.5)
        else:
            set_scale("log")
        round_ticks(axis, zero=zero)


def log_edges(centres: Sequence[float]) -> list[float]:
    """Edges halfway between ascending centres on a log axis, and as far beyond the outer ones."""
    if len(centres) < 2:
        return [edge for centre in centres for edge in (centre / 2**0.5, centre * 2**0.5)]
    inner = [(low * high) ** 0.5 for low, high in itertools.pairwise(centres)]
    return [centres[0] ** 2 / inner[0], *inner, centres[-1] ** 2 / inner[-1]]
