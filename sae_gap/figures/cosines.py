"""How well learned dictionaries match the true one, atom by atom."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels, style, tables

_CLOSE = 0.9


@style.styled
def matched_cosines(rows: style.Rows) -> Figure | None:
    """How well each learned dictionary matches the true one: the distribution of matched cosines
    over its atoms.

    Methods that infer on one dictionary share it, so that each dictionary is drawn once; the
    oracle's is left out, and so are atoms whose lengths were changed.

    Args:
      rows: rows of one setting; `dictionary` and `cosines`, the matched absolute cosines of a
        dictionary, are read, and `start` where it names the dictionary that learning started from.

    Returns:
      The figure, or None where no row has cosines.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = [row for row in rows if row.get("columns") in (None, "learned")]
    tables.summarise(rows, by=("method",), metrics=())
    by_seed: dict[tuple[Any, Any], dict[Any, Sequence[float]]] = {}
    for row in rows:
        if row.get("cosines") and row.get("dictionary") not in (None, "oracle"):
            # A cold or a warm start is one of the codes, which leaves the dictionary what it is.
            start = row.get("start") if row.get("start") not in ("cold", "warm") else None
            seeds = by_seed.setdefault((row["dictionary"], start), {})
            seeds.setdefault(row.get("seed"), row["cosines"])
    if not by_seed:
        return None
    dictionaries = sorted(by_seed, key=lambda pair: [*map(labels.rank, pair)])
    figure = Figure(figsize=(style.WIDTH, 1.6 + 0.62 * len(dictionaries)))
    axes = figure.add_subplot()
    axes.axvline(_CLOSE, color=style.QUIET, linewidth=0.8, linestyle=style.DASHED, zorder=1)
    for place, (dictionary, start) in enumerate(dictionaries):
        pooled = [value for values in by_seed[dictionary, start].values() for value in values]
        # A failed fit writes null for a cosine, which counts as 0: it must lower the share.
        cosines = np.nan_to_num(np.array(pooled, float)).clip(0, 1)
        _half_violin(axes, place, cosines, labels.colour(dictionary if start is None else start))
        text = f"{np.mean(cosines > _CLOSE):.0%} > {_CLOSE}"
        axes.annotate(
            text, (1, place), (6, 0), va="center", textcoords="offset points", annotation_clip=False
        )
    named = [[labels.label(name) for name in pair if name is not None] for pair in dictionaries]
    style.name_along(axes.yaxis, [" from ".join(names) for names in named])
    axes.set_xlim(0, 1)
    axes.set_ylim(len(dictionaries) - 0.5, -0.75)
    axes.set_xlabel("|cosine| of a learned atom with its matched true atom (1 is perfect)")
    caption = f"Dot: median; bar: quartiles; at the right, the share of atoms above {_CLOSE}"
    title = "Matched cosines of the atoms of each dictionary"
    style.finish(figure, rows, title=title, caption=caption)
    return figure


def _half_violin(axes: Axes, place: int, cosines: np.ndarray, colour: str) -> None:
    # A histogram, unlike a kernel density, leaks nothing beyond the ends of [0, 1], where the best
    # dictionaries pile up.
    counts, edges = np.histogram(cosines, bins=40, range=(0, 1))
    tops = place - 0.62 * counts / counts.max()
    axes.stairs(tops, edges, baseline=place, fill=True, color=colour, alpha=0.45, linewidth=0)
    axes.stairs(tops, edges, baseline=place, color=colour, linewidth=0.8)
    low, median, high = np.quantile(cosines, (0.25, 0.5, 0.75))
    look: dict[str, Any] = {"color": colour, "zorder": 3, "clip_on": False}
    axes.plot([low, high], [place + 0.12] * 2, linewidth=3, solid_capstyle="butt", **look)
    dot: dict[str, Any] = {"markerfacecolor": "white", "markersize": 5.5, "markeredgewidth": 1.6}
    axes.plot(median, place + 0.12, "o", **look | dot)
