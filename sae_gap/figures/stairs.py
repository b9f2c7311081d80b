"""Stairs from an encoder's own score up to the oracle's, a step for each part of the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels, style, tables
from sae_gap.figures.decompose import decompositions
from sae_gap.storage.results import Row

# The amortisation part is blue; its two parts are a lighter and a darker blue.
STEPS = {
    "encoder": ("the encoder's own codes", "#BDBDBD"),
    "values_part": ("values part", "#56B4E9"),
    "support_part": ("support part", "#0072B2"),
    "amortisation_part": ("amortisation part", "#0072B2"),
    "dictionary_part": ("dictionary part", "#E69F00"),
}
_ACROSS = 4
# Smaller steps, which two decimals would not show, are not drawn.
_STEP = 0.005


@style.styled
def decomposition(rows: style.Rows, metric: str = "mcc_ood") -> Figure | None:
    """Draws each encoder's distance to the oracle as stairs from its own score up to the oracle's.

      S(oracle) - S(encoder) = [S(support) - S(encoder)] + [S(frozen) - S(support)]
                               + [S(oracle) - S(frozen)]

    The steps are the values, the support and the dictionary part; see `figures.decompose`. Without
    rows of the best values on the own support, the first two are one, the amortisation part. A
    negative part is a step down, drawn hatched.

    Args:
      rows: rows of one setting, with `dictionary`, `inference`, `start` and the metric.
      metric: the score S, a column of the rows; more is better.

    Returns:
      The figure, or None if no encoder has the three scores that two parts need.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    lines = tables.summarise(decompositions(rows, metric), by=("dictionary",))
    if not lines:
        return None
    lines.sort(key=lambda line: labels.rank(line["dictionary"]))
    across, down = style.layout(len(lines), _ACROSS)
    figure = Figure(figsize=(style.WIDTH, 1.0 + 3.0 * down))
    panels = figure.subplots(down, 1, sharey=True, squeeze=False)[:, 0]
    oracle = float(np.mean([line["oracle_mean"] for line in lines]))
    for panel, axes in enumerate(panels):
        style.level(axes, oracle)
        axes.axhline(0, color="black", linewidth=0.8)
        shown = lines[panel * across : (panel + 1) * across]
        for place, line in enumerate(shown):
            _stairs(axes, place, line)
        names = [labels.label(line["dictionary"]) for line in shown]
        style.name_along(axes.xaxis, names)
        axes.set_xlim(-0.52, across - 0.48)
        axes.margins(y=0.08)
        right = axes.get_yaxis_transform()
        axes.text(1.01, oracle, f"oracle\n{oracle:.2f}", transform=right, va="center")
    figure.supylabel(style.axis_label(metric))
    drawn = {step for line in lines for step in steps_of(line)}
    handles = [style.swatch(*look) for step, look in STEPS.items() if step in drawn]
    title = f"{labels.metric_label(metric)}, from each encoder up to the oracle"
    more = "whiskers: ± 1 sd" * (lines[0]["seeds"] > 1)
    caption = "A hatched part is a step down"
    style.finish(figure, rows, handles, title=title, more=more, caption=caption)
    return figure


def steps_of(line: Row) -> Sequence[str]:
    """The own score and the parts that a line has."""
    if line.get("support_mean") is None:
        return "encoder", "amortisation_part", "dictionary_part"
    return "encoder", "values_part", "support_part", "dictionary_part"


def _stairs(axes: Axes, place: int, line: Row) -> None:
    steps = steps_of(line)
    width, level = 0.94 / len(steps), 0.0
    whisker = {"elinewidth": 0.9, "capsize": 2, "ecolor": style.INK}
    for offset, part in enumerate(steps):
        left, size = place + (offset - len(steps) / 2) * width, line[f"{part}_mean"]
        look: dict[str, Any] = {"facecolor": STEPS[part][1]}
        if size <= -_STEP:
            look = {"facecolor": "white", "edgecolor": STEPS[part][1], "hatch": "////"}
        look |= {"yerr": line[f"{part}_sd"], "error_kw": whisker, "zorder": 2}
        step = axes.bar(left, size, width, level, align="edge", **look)
        level += size
        end = left + (2 if offset < len(steps) - 1 else 1) * width
        axes.plot([left, end], [level, level], color=style.INK, linewidth=0.8, zorder=3)
        text = f"{size:.2f}" if part == "encoder" else f"{size:+z.2f}"
        axes.bar_label(step, [text.replace("-", "−")], padding=1, fontsize=7, zorder=5)
