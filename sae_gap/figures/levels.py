"""Where in a world recovery fails: by the level of a feature in its tree, and by how often it fires."""

from matplotlib.figure import Figure

from sae_gap.figures import labels, style, tables

# Groups of features, in the order in which they are drawn.
_PANELS = {
    "level of the feature in its tree": (
        *("roots", "children", "grandchildren", "great_grandchildren", "level_4", "level_5", "level_6", "free"),
    ),
    "frequency of the feature, by quartile": ("frequent", "common", "uncommon", "rare"),
}


@style.styled
def recovery_by_level(rows: style.Rows) -> Figure | None:
    """Matched cosine of the features of each level and of each quartile of frequency, a line a dictionary.

    Args:
      rows: rows of one world; `dictionary` and `atom_mcc_<group>` are read. Methods that infer on one dictionary share it.

    Returns:
      The figure, or None where no row has a group.

    Raises:
      ValueError: the rows mix worlds, sizes or protocols, or hold a seed twice.
    """
    rows = list(rows)
    tables.summarise(rows, by=("method",), metrics=())
    first = {(row["dictionary"], row.get("seed")): row for row in reversed(rows)}
    known = {name for row in rows for name, value in row.items() if value is not None}
    shown = {title: [name for name in names if f"atom_mcc_{name}" in known] for title, names in _PANELS.items()}
    shown = {title: names for title, names in shown.items() if names}
    if not shown:
        return None
    metrics = [f"atom_mcc_{name}" for names in shown.values() for name in names]
    lines = tables.summarise(first.values(), by=("dictionary",), metrics=metrics)
    lines = [line for line in lines if any(line[f"{metric}_mean"] is not None for metric in metrics)]
    looks = style.looks(line["dictionary"] for line in lines)
    lines.sort(key=lambda line: [*looks].index(line["dictionary"]))
    figure = Figure(figsize=(style.WIDTH, 4.2))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    for axes, (title, names) in zip(panels, shown.items(), strict=True):
        for line in lines:
            # A group that a world or a dictionary lacks leaves a gap in no line.
            places = [place for place, name in enumerate(names) if line[f"atom_mcc_{name}_mean"] is not None]
            means, sds = ([line[f"atom_mcc_{names[place]}_{part}"] or 0.0 for place in places] for part in ("mean", "sd"))
            axes.errorbar(places, means, sds, elinewidth=0.8, zorder=3, **looks[line["dictionary"]])
        axes.set_xticks(range(len(names)), [_in_lines(name) for name in names])
        axes.set_xlim(-0.3, len(names) - 0.7)
        axes.set_title(title)
    panels[0].set(ylim=(0, 1.03), ylabel=style.axis_label("atom_mcc"))
    handles = [style.mark(labels.label(name), linestyle="-", **look) for name, look in looks.items()]
    title = "Matched cosine by level and frequency of the features"
    style.finish(figure, title, rows, spread="whiskers", handles=handles)
    return figure


def _in_lines(name: str) -> str:
    """The name of a group, broken where its neighbours would touch it."""
    return name.replace("great_", "great-\n").replace("grandchildren", "grand-\nchildren").replace("_", "\n")
