"""A metric along a column of a study, a world's levels or atoms: a line for each dictionary."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.analysis.tables import summarise
from sae_gap.figures import draw_lines, style
from sae_gap.figures.labels import colour, label, metric_label, rank
from sae_gap.figures.style import QUIET, Rows

_CLOSE = 0.9

# Groups of features, in drawing order.
_PANELS = {
    "level of the feature in its tree": (
        "roots",
        "children",
        "grandchildren",
        "great_grandchildren",
        "level_4",
        "level_5",
        "level_6",
        "free",
    ),
    "frequency of the feature, by quartile": ("frequent", "common", "uncommon", "rare"),
}


def curve(
    rows: Rows,
    x: str,
    y: str,
    *,
    line: str = "dictionary",
    dash: str = "",
    panel: str = "",
    logy: bool = False,
) -> Figure | None:
    """Draws a metric along a column: means over seeds with ± 1 sd.

    Rows of the oracle without x become horizontal levels; other rows without x are left out.

    Args:
      rows: rows of a study.
      x: a column of numbers, on a log axis, where 0 has a place of its own, left of the least other
        value.
      y: the metric.
      line: a column; each of its values has a line of its own colour.
      dash: a column; each of its values has its own dash and marker.
      panel: a column; each of its values has a panel.
      logy: whether y is on a log axis.

    Returns:
      The figure, or None if no line has a mean.

    Raises:
      ValueError: a point mixes rows of different settings, or holds a seed twice: the rows vary in
        a column that is neither x nor line nor dash nor panel.
    """
    rows = list(rows)
    by = [name for name in (panel, line, dash) if name]
    shown = [row for row in rows if row.get(x) is not None]
    flat = [
        {**row, line: row.get(line) or "oracle"}
        for row in rows
        if row.get(x) is None and row.get("dictionary") == "oracle"
    ]
    means = style.means(shown, (*by, x), (y,))
    if not means:
        return None
    means.sort(key=lambda mean: [rank(mean[name], name) for name in by])
    return draw_lines(
        [*means, *style.means(flat, by, (y,))],
        x,
        (y,),
        line=line,
        dash=dash,
        panel=panel,
        ticks=True,
        logy=(y,) * logy,
        of=shown,
        title=f"{metric_label(y)} by {metric_label(x)}",
    )


def recovery_by_level(rows: Rows) -> Figure | None:
    """Draws the matched cosine of the features of each level and of each quartile of frequency, a
    line for each dictionary.

    Args:
      rows: rows of one world, with `dictionary` and `atom_mcc_<group>`. Methods that infer on one
        dictionary share it.

    Returns:
      The figure, or None if no row has a group.

    Raises:
      ValueError: the rows mix worlds, sizes or protocols, or hold a seed twice.
    """
    rows = list(rows)
    summarise(rows, by=("method",), metrics=())
    first = {(row["dictionary"], row.get("seed")): row for row in reversed(rows)}
    places = [(panel, group) for panel, groups in _PANELS.items() for group in groups]
    lines = summarise(
        first.values(),
        by=("dictionary",),
        metrics=[f"atom_mcc_{group}" for _, group in places],
    )
    points = [
        {
            **line,
            "panel": panel,
            "group": _in_lines(group),
            "atom_mcc": line[f"atom_mcc_{group}_mean"],
            "atom_mcc_sd": line[f"atom_mcc_{group}_sd"],
        }
        for panel, group in places
        for line in lines
        if line[f"atom_mcc_{group}_mean"] is not None
    ]
    return draw_lines(
        points,
        "group",
        ("atom_mcc",),
        panel="panel",
        logx=False,
        of=rows,
        title="Matched cosine by level and frequency of the features",
    )


def _in_lines(group: str) -> str:
    """Returns the name of a group, broken into two lines if its neighbours would touch it."""
    named = group.replace("great_", "great-\n").replace("_", "\n")
    return named.replace("grandchildren", "grand-\nchildren")


def matched_cosines(rows: Rows) -> Figure | None:
    """Draws how well each learned dictionary matches the true one: the matched cosines of its
    atoms, in ascending order.

    Methods that infer on one dictionary share it, so each dictionary is drawn once. The oracle's is
    left out, and so are dictionaries with changed lengths.

    Args:
      rows: rows of one setting, with `dictionary` and `cosines` (the matched absolute cosines of a
        dictionary).

    Returns:
      The figure, or None if no row has cosines.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = [row for row in rows if row.get("columns") in (None, "learned")]
    summarise(rows, by=("method",), metrics=())
    seeds: Any = {}
    for row in rows:
        if row.get("cosines") and row.get("dictionary") not in (None, "oracle"):
            seeds.setdefault(row["dictionary"], {}).setdefault(
                row.get("seed"), row["cosines"]
            )
    points: Any = [{"dictionary": None, "matched": _CLOSE}]
    looks: Any = {}
    for name in sorted(seeds, key=rank):
        # A failed fit writes null for a cosine, which counts as 0, as it must lower the curve.
        found = np.nan_to_num(np.array([*seeds[name].values()], float))
        shares = np.linspace(0, 100, 201)
        points += [
            {"dictionary": name, "share": share, "matched": cosine}
            for share, cosine in zip(shares, np.percentile(found, shares), strict=True)
        ]
        looks[name] = {"label": label(name), "color": colour(name)}
    looks[None] = {"label": f"{_CLOSE}", "color": QUIET}
    return draw_lines(
        points,
        "share",
        ("matched",),
        looks={"dictionary": looks},
        logx=False,
        of=rows,
        title="Matched cosines of the atoms of each dictionary",
    )
