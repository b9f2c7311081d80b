"""A metric along a column of a study and along a world's levels, and recovery in distribution
against recovery out of it and atom by atom: a line or a colour for each dictionary.
"""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.analysis import tables
from sae_gap.figures import MARKERS, draw_lines, labels, style

_CLOSE = 0.9

# Groups of features, in drawing order.
_PANELS = {
    "level of the feature in its tree": (
        *("roots", "children", "grandchildren", "great_grandchildren"),
        *("level_4", "level_5", "level_6", "free"),
    ),
    "frequency of the feature, by quartile": ("frequent", "common", "uncommon", "rare"),
}


def curve(
    rows: style.Rows,
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
    rows, by = list(rows), [name for name in (panel, line, dash) if name]
    shown = [row for row in rows if row.get(x) is not None]
    flat = [
        {**row, line: row.get(line) or "oracle"}
        for row in rows
        if row.get(x) is None and row.get("dictionary") == "oracle"
    ]
    means = style.means(shown, (*by, x), (y,))
    if not means:
        return None
    means.sort(key=lambda mean: [labels.rank(mean[name], name) for name in by])
    return draw_lines(
        [*means, *style.means(flat, by, (y,))],
        x,
        (y,),
        line=line,
        dash=dash,
        panel=panel,
        ticks=True,
        logy=(y,) if logy else (),
        of=shown,
        title=f"{labels.metric_label(y)} by {labels.metric_label(x)}",
    )


def recovery_by_level(rows: style.Rows) -> Figure | None:
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
    tables.summarise(rows, by=("method",), metrics=())
    first = {(row["dictionary"], row.get("seed")): row for row in reversed(rows)}
    known = {name for row in rows for name, value in row.items() if value is not None}
    shown = {
        f"atom_mcc_{group}": (panel, group)
        for panel, groups in _PANELS.items()
        for group in groups
        if f"atom_mcc_{group}" in known
    }
    lines = tables.summarise(first.values(), by=("dictionary",), metrics=[*shown])
    points = [
        {
            **line,
            "panel": panel,
            "group": _in_lines(group),
            # A line has a gap where its dictionary lacks a group.
            "atom_mcc": math.nan if line[f"{metric}_mean"] is None else line[f"{metric}_mean"],
            "atom_mcc_sd": line[f"{metric}_sd"],
        }
        for metric, (panel, group) in shown.items()
        for line in lines
        if any(line[f"{name}_mean"] is not None for name in shown)
    ]
    title = "Matched cosine by level and frequency of the features"
    figure = draw_lines(
        points, "group", ("atom_mcc",), panel="panel", logx=False, of=rows, title=title
    )
    if figure is not None:
        figure.axes[0].set_ylim(0, 1.03)
    return figure


def _in_lines(group: str) -> str:
    """Returns the name of a group, broken into two lines if its neighbours would touch it."""
    group = group.replace("great_", "great-\n").replace("grandchildren", "grand-\nchildren")
    return group.replace("_", "\n")


def recovery(rows: style.Rows) -> Figure | None:
    """Draws recovery in distribution against recovery out of it: a colour for each dictionary, a
    marker for each inference.

    Args:
      rows: rows of one setting, with `dictionary`, `inference`, `start`, `mcc_id` and `mcc_ood`.

    Returns:
      The figure, or None if no method has both scores.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows, metrics = list(rows), ("mcc_id", "mcc_ood")
    points = style.means(rows, ("method", "dictionary", "inference", "start"), metrics)
    for point in points:
        point["codes"] = "warm" if point["start"] == "warm" else point["inference"]
    kinds = dict.fromkeys(point["codes"] for point in points)
    # Warm and cold starts reach one optimum: a wide hollow marker shows the other inside it.
    wide = {"markersize": 10, "fillstyle": "none"}
    looks = {
        kind: {"label": labels.label(kind, "inference"), "linestyle": "none", **marker}
        | (wide if kind == "warm" else {})
        for kind, marker in zip(kinds, MARKERS, strict=False)
    }
    figure = draw_lines(
        points,
        metrics[0],
        metrics[1:],
        dash="codes",
        looks={"codes": looks},
        logx=False,
        size=(1.8, 4.2),
        of=rows,
        title="MCC out of distribution against in distribution",
        caption="On the dashed line both are the same",
    )
    for axes in figure.axes if figure else ():
        low, high = (limit(*axes.get_xlim(), *axes.get_ylim()) for limit in (min, max))
        axes.axline((low, low), slope=1, color="#999999", linewidth=0.8, linestyle=style.DASHED)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    return figure


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
            start = None if row.get("start") in ("cold", "warm") else row.get("start")
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
