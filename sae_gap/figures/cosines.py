"""How well learned dictionaries match the true one, atom by atom."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.analysis import tables
from sae_gap.figures import draw_lines, labels, style

_CLOSE = 0.9


def matched_cosines(rows: style.Rows) -> Figure | None:
    """Draws how well each learned dictionary matches the true one: the matched cosines of its
    atoms, in ascending order.

    Methods that infer on one dictionary share it, so each dictionary is drawn once. The oracle's is
    left out, and so are dictionaries with changed lengths.

    Args:
      rows: rows of one setting, with `dictionary`, `cosines` (the matched absolute cosines of a
        dictionary) and perhaps `start`, the dictionary that learning started from.

    Returns:
      The figure, or None if no row has cosines.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = [row for row in rows if row.get("columns") in (None, "learned")]
    tables.summarise(rows, by=("method",), metrics=())
    by_seed: dict[tuple[Any, Any], dict[Any, Any]] = {}
    for row in rows:
        if row.get("cosines") and row.get("dictionary") not in (None, "oracle"):
            # A cold or warm start concerns the codes, not the dictionary.
            start = row.get("start") if row.get("start") not in ("cold", "warm") else None
            seeds = by_seed.setdefault((row["dictionary"], start), {})
            seeds.setdefault(row.get("seed"), row["cosines"])
    points: list[dict[str, Any]] = [{"atoms": None, "matched": _CLOSE}]
    looks: dict[Any, Any] = {}
    for pair in sorted(by_seed, key=lambda pair: [*map(labels.rank, pair)]):
        # A failed fit writes null for a cosine, which counts as 0, as it must lower the curve.
        found = np.nan_to_num(np.array([*by_seed[pair].values()], float))
        shares = np.linspace(0, 100, 201)
        points += [
            {"atoms": pair, "share": share, "matched": cosine}
            for share, cosine in zip(shares, np.percentile(found, shares), strict=True)
        ]
        names = [name for name in pair if name is not None]
        looks[pair] = {
            "label": " from ".join(map(labels.label, names)),
            "color": labels.colour(names[-1]),
        }
    looks[None] = {"label": f"{_CLOSE}", "color": style.QUIET}
    figure = draw_lines(
        points,
        "share",
        ("matched",),
        line="atoms",
        looks={"atoms": looks},
        logx=False,
        of=rows,
        title="Matched cosines of the atoms of each dictionary",
    )
    if figure is not None:
        figure.axes[0].set(xlim=(0, 100), ylim=(0, 1.02))
    return figure
