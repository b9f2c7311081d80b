"""How well learned dictionaries match the true one, atom by atom."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_gap.figures import labels, style, tables


@style.styled
def matched_cosines(rows: style.Rows) -> Figure | None:
    """How well each learned dictionary matches the true one: the distribution of matched cosines over its atoms.

    Methods that infer on one dictionary share it, so that each dictionary is drawn once; the oracle's is left out.

    Args:
      rows: rows of one setting; `dictionary` and `cosines`, the matched absolute cosines of a dictionary, are read, and `start`
        where it names the dictionary that learning started from.

    Returns:
      The figure, or None where no row has cosines.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    found: dict[tuple[Any, Any], dict[Any, Sequence[float]]] = {}
    for row in rows:
        if row.get("cosines") and row.get("dictionary") not in (None, "oracle"):
            # A cold or a warm start is one of the codes, which leaves the dictionary what it is.
            start = row.get("start") if row.get("start") not in ("cold", "warm") else None
            found.setdefault((row["dictionary"], start), {}).setdefault(row.get("seed"), row["cosines"])
    if not found:
        return None
    dictionaries = sorted(found, key=lambda name: (labels.rank(name[0]), labels.rank(name[1])))
    figure = Figure(figsize=(style.WIDTH, 1.6 + 0.62 * len(dictionaries)))
    axes = figure.add_subplot()
    axes.axvline(0.9, color=style.QUIET, linewidth=0.8, linestyle=style.DASHED, zorder=1)
    shares: dict[str, float] = {}
    for place, (dictionary, start) in enumerate(dictionaries):
        # A failed fit writes null for a cosine; counted as 0 it lowers the share instead of vanishing from it.
        cosines = np.array([value or 0.0 for values in found[dictionary, start].values() for value in values], float).clip(0, 1)
        shares[_label(dictionary, start)] = share = float(np.mean(cosines > 0.9))
        _half_violin(axes, place, cosines, labels.colour(dictionary if start is None else start))
        axes.annotate(f"{share:.0%} > 0.9", (1, place), (6, 0), textcoords="offset points", va="center", annotation_clip=False)
    axes.set_yticks(range(len(dictionaries)), list(shares), fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(dictionaries) - 0.5, -0.75)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("|cosine| of a learned atom with its matched true atom (1 is perfect)\ndot: median, bar: quartiles")
    finding = _finding({name: f"{share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1])})
    every = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    style.finish(figure, finding, rows, f"Atoms whose cosine with their true atom is above 0.9: {every}")
    return figure


def _finding(shares: Mapping[str, str]) -> str:
    """The best of the dictionaries, which stand in order, and what the next best finds."""
    (best, share), *others = shares.items()
    rivals = [name for name, other in others if other == share]
    if not others:
        return f"{best} finds {share} of the true atoms"
    if len(rivals) == len(others):
        return f"Each of the {len(shares)} dictionaries finds {share} of the true atoms"
    if rivals:
        return f"{best} and {rivals[0] if len(rivals) == 1 else f'{len(rivals)} others'} find {share} of the true atoms"
    return f"{best} finds {share} of the true atoms, {others[0][0]} {others[0][1]}"


def _label(dictionary: str, start: Any) -> str:
    return labels.label(dictionary) if start is None else f"{labels.label(dictionary)} from {labels.label(start)}"


def _half_violin(axes: Axes, place: int, cosines: np.ndarray, colour: str) -> None:
    # A histogram, unlike a kernel density, leaks nothing beyond the ends of [0, 1], where the best dictionaries pile up.
    counts, edges = np.histogram(cosines, bins=50 if cosines.size >= 300 else 25, range=(0, 1))
    tops = place - 0.62 * counts / counts.max()
    axes.stairs(tops, edges, baseline=place, fill=True, color=colour, alpha=0.45, linewidth=0, zorder=2)
    axes.stairs(tops, edges, baseline=place, color=colour, linewidth=0.8, zorder=2)
    low, median, high = np.quantile(cosines, (0.25, 0.5, 0.75))
    axes.plot([low, high], [place + 0.12] * 2, color=colour, linewidth=3, solid_capstyle="butt", zorder=3, clip_on=False)
    dot: dict[str, Any] = {"color": "white", "markeredgecolor": colour, "markersize": 5.5, "markeredgewidth": 1.6}
    axes.plot(median, place + 0.12, "o", zorder=4, clip_on=False, **dot)
