"""What a dictionary that is given explains after each block of a model."""

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


@style.styled
def captured_by_block(rows: style.Rows) -> Figure | None:
    """Left what the best non-negative codes of at most k atoms capture after each block, in bands
    of 95 % over documents; right what the span of the most atoms does that orthogonal pursuit
    takes, and of as many of each control, in bands of the draws.

    Args:
      rows: of `decompose`; those without a block are left out.

    Returns:
      The figure, or None for fewer than two blocks.
    """
    rows = [row for row in rows if row.get("block") is not None]
    if len({row["block"] for row in rows}) < 2:
        return None
    best = grouped([row for row in rows if row["codes"] == "best"], ("k",))
    most = max(size for (size,) in best)
    spans = [row for row in rows if row["codes"] == "span" and row["k"] == most]
    titles = ["the best codes, z ≥ 0", f"spans of {most} atoms, any signs"]
    figure, (left, right) = style.panels(titles, 2.4, 2.8, "block", "captured variance, %")
    looks, handles = style.looks((size for (size,) in best), "k"), []
    drawn = [(left, f"at most {size} atoms", looks[size], lines) for (size,), lines in best.items()]
    for (kind,), lines in grouped(spans, ("control",)).items():
        label, colour = _SPANS[kind]
        drawn.append((right, label, {"color": colour, "marker": ""}, lines))
    for axes, label, look, lines in drawn:
        lines = sorted(lines, key=lambda row: row["block"])
        names = "block", "captured", "low", "high"
        blocks, *shares = (np.array([row[name] for row in lines]) for name in names)
        middle, low, high = (100 * share for share in shares)
        axes.plot(blocks, middle, **look)
        axes.fill_between(blocks, low, high, color=look["color"], alpha=0.18, linewidth=0)
        handles.append(style.mark(label, **look | {"linestyle": "-"}))
    left.set_ylim(bottom=0)
    more = "bands: left 95 % over documents, right the draws of controls"
    style.finish(figure, "Captured variance by block", spans, more=more, handles=handles)
    return figure
