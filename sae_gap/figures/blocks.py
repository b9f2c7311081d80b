"""What a dictionary that is given explains after each block of a model."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sae_gap.figures import style
from sae_gap.storage.results import grouped

# By the column "control".
_SPANS = {
    "given": ("this dictionary", "#0072B2"),
    "covariance": ("random, same mean and covariance", "#E69F00"),
    "shuffled": ("its coordinates dealt out anew", "#009E73"),
    "isotropic": ("random directions", "#7F7F7F"),
}
_NAMES = "block", "captured", "low", "high"


@style.styled
def captured_by_block(rows: style.Lines) -> Figure | None:
    """Left what the best non-negative codes of at most k atoms capture after each block, in bands
    of 95 % over documents; right what the span of the most atoms does that orthogonal pursuit
    takes, and of as many of each control, in bands of the draws. What is above or below all lines
    is cut off: where one row has most of the squared length, an interval tells nothing.

    Args:
      rows: of `decompose`.

    Returns:
      The figure, or None for fewer than two blocks.
    """
    if len({row["block"] for row in rows}) < 2:
        return None
    best = grouped([row for row in rows if row["codes"] == "best"], ("k",))
    (top,) = max(best)
    spans = [row for row in rows if row["codes"] == "span" and row["k"] == top]
    titles = ["the best codes, z ≥ 0", f"spans of {top} atoms, any signs"]
    figure, (left, right) = style.panels(titles, 2.4, 2.8, "block", "captured variance, %")
    shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0, len(best)))
    drawn = [
        (left, f"at most {size} atoms", shade, best[size,])
        for shade, (size,) in zip(shades, sorted(best), strict=True)
    ]
    for (kind,), lines in grouped(spans, ("control",)).items():
        drawn.append((right, *_SPANS[kind], lines))
    handles, most = [], 0.0
    for axes, label, colour, lines in drawn:
        told = sorted([row[name] for name in _NAMES] for row in lines)
        # An end that is not known is None.
        blocks, middle, low, high = np.array(told, float).T * [[1], [100], [100], [100]]
        axes.plot(blocks, middle, color=colour, marker=".", markersize=4)
        axes.fill_between(blocks, low, high, color=colour, alpha=0.18, linewidth=0)
        handles.append(style.mark(label, color=colour, linestyle="-"))
        most = max(most, *middle)
    left.set_ylim(0, 1.1 * most)
    more = "bands: left 95 % over documents, right the draws of controls"
    style.finish(figure, "Captured variance by block", spans, more=more, handles=handles)
    return figure
