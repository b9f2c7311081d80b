"""Where in a world recovery fails: by the level of a feature in its tree, and by how often it
fires.
"""

import numpy as np
from matplotlib.figure import Figure

from sae_gap.figures import labels, style, tables

# Groups of features, in the order in which they are drawn.
_LEVELS = [
    *("roots", "children", "grandchildren", "great_grandchildren"),
    *("level_4", "level_5", "level_6", "free"),
]
_PANELS = {
    "level of the feature in its tree": _LEVELS,
    "frequency of the feature, by quartile": ["frequent", "common", "uncommon", "rare"],
}


@style.styled
def recovery_by_level(rows: style.Rows) -> Figure | None:
    """Matched cosine of the features of each level and of each quartile of frequency, a line a
    dictionary.

    Args:
      rows: rows of one world; `dictionary` and `atom_mcc_<group>` are read. Methods that infer on
        one dictionary share it.

    Returns:
      The figure, or None where no row has a group.

    Raises:
      ValueError: the rows mix worlds, sizes or protocols, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    first = {(row["dictionary"], row.get("seed")): row for row in reversed(rows)}
    known = {name for row in rows for name, value in row.items() if value is not None}
    shown = {}
    for title, groups in _PANELS.items():
        named = {f"atom_mcc_{group}": group for group in groups if f"atom_mcc_{group}" in known}
        if named:
            shown[title] = named
    if not shown:
        return None
    metrics = [metric for named in shown.values() for metric in named]
    lines = tables.summarise(first.values(), by=("dictionary",), metrics=metrics)
    lines = [line for line in lines if any(line[f"{name}_mean"] is not None for name in metrics)]
    looks = style.looks(line["dictionary"] for line in lines)
    lines.sort(key=lambda line: labels.rank(line["dictionary"]))
    figure = Figure(figsize=(style.WIDTH, 4.2))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    for axes, (title, named) in zip(panels, shown.items(), strict=True):
        for line in lines:
            # A group that a dictionary lacks is not a number, and a gap in its line.
            mean = np.array([line[f"{name}_mean"] for name in named], float)
            sd = np.array([line[f"{name}_sd"] for name in named], float)
            look = {"elinewidth": 0.8} | looks[line["dictionary"]]
            axes.errorbar(range(len(named)), mean, np.nan_to_num(sd), **look)
        axes.set_xticks(range(len(named)), map(_in_lines, named.values()))
        axes.set_xlim(-0.3, len(named) - 0.7)
        axes.set_title(title)
    panels[0].set(ylim=(0, 1.03), ylabel=style.axis_label("atom_mcc"))
    handles = []
    for name, look in looks.items():
        handles.append(style.mark(labels.label(name), **look, linestyle="-"))
    title = "Matched cosine by level and frequency of the features"
    style.finish(figure, title, rows, spread="whiskers", handles=handles)
    return figure


def _in_lines(group: str) -> str:
    """The name of a group, broken where its neighbours would touch it."""
    group = group.replace("great_", "great-\n").replace("grandchildren", "grand-\nchildren")
    return group.replace("_", "\n")
