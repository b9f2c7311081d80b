"""The variance that a given dictionary explains after each block of a model."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sae_gap.figures import style
from sae_gap.figures.lines import draw_lines

# Looks by the column "control".
_SPANS = {
    "given": {"label": "this dictionary", "color": "#0072B2"},
    "covariance": {"label": "random, same mean and covariance", "color": "#E69F00"},
    "shuffled": {"label": "its coordinates dealt out anew", "color": "#009E73"},
    "isotropic": {"label": "random directions", "color": "#7F7F7F"},
}


def captured_by_block(rows: style.Lines) -> Figure | None:
    """Left: the share that the best non-negative codes of at most k atoms explain after each block,
    with 95 % intervals over documents. Right: the share in the span of the most atoms that
    orthogonal pursuit takes, and of as many of each control, with the range of the draws. The axes
    end with the lines: where one row has most of the squared length, intervals are too wide to tell
    anything.

    Args:
      rows: rows of `decompose`.

    Returns:
      The figure, or None for fewer than two blocks.
    """
    if len({row["block"] for row in rows}) < 2:
        return None
    sizes = sorted({row["k"] for row in rows if row["codes"] == "best"})
    kinds = {"best": "the best codes, z ≥ 0", "span": f"spans of {sizes[-1]} atoms, any signs"}
    points = [
        {**row, "kind": kinds[row["codes"]], "line": row.get("control") or row["k"]}
        for row in sorted(rows, key=lambda row: (row["codes"], row["block"]))
        if row["codes"] == "best" or (row["codes"] == "span" and row["k"] == sizes[-1])
    ]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0, len(sizes)))
    looks = {
        size: {"label": f"at most {size} atoms", "color": shade}
        for size, shade in zip(sizes, shades, strict=True)
    }
    figure = draw_lines(
        points,
        "block",
        ("captured",),
        line="line",
        panel="kind",
        looks={"line": looks | _SPANS},
        logx=False,
        title="Captured variance by block",
        more="intervals: left 95 % over documents, right the draws of controls",
    )
    figure.axes[0].set_ylim(0, 1.1 * max(point["captured"] for point in points))
    return figure
