"""What a learner recovers for the time that it takes."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_gap.figures import labels, log_axes, style, tables

_KINDS = {"dictionary_learning": ("dictionary learning", "s"), "peer": ("other libraries", "D")}
_REST = ("SAE", "o")


@style.styled
def recovery_by_seconds(rows: style.Rows) -> Figure | None:
    """What each learner recovers, of the dictionary and of the codes out of distribution, against the seconds that it takes.

    Args:
      rows: rows of one setting; `dictionary`, `family`, `fit_seconds`, `cosine` and `mcc_ood` are read, and the scores of the
        oracle's dictionary drawn as levels.

    Returns:
      The figure, or None where no learner has a score.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    metrics = ("cosine", "mcc_ood")
    first: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["method"], row)
    summary = tables.summarise(rows, by=("method",), metrics=("fit_seconds", *metrics))
    found = [line for line in summary if None not in (line["fit_seconds_mean"], line["cosine_mean"], line["mcc_ood_mean"])]
    levels = [line for line in found if first[line["method"]].get("dictionary") == "oracle"]
    learners = [line for line in found if line not in levels]
    if not learners:
        return None
    figure = Figure(figsize=(style.WIDTH, 7.6))
    panels = figure.subplots(2, 1, sharex=True)
    placed = []
    for axes, metric in zip(panels, metrics, strict=True):
        placed.append(_panel(axes, metric, learners, levels, first))
    ends = [x for *_, whiskers in placed for pair in whiskers for x, _ in pair]
    margin = max((max(ends) / min(ends)) ** 0.15, 2.0)
    panels[1].set(xscale="log", xlim=(min(ends) / margin, max(ends) * margin))
    log_axes.round_ticks(panels[1].xaxis)
    panels[1].set_xlabel("seconds to learn the dictionary, compilation apart")
    best = max(learners, key=lambda line: line["cosine_mean"])
    spent = _seconds(best["fit_seconds_mean"])
    finding = f"{_name(first[best['method']])} recovers the most of the dictionary, in {spent} s"
    style.head(figure, finding, rows, deviation="whiskers")
    kinds = dict.fromkeys(_KINDS.get(str(first[line["method"]].get("family")), _REST) for line in learners)
    ordered = [kind for kind in (*_KINDS.values(), _REST) if kind in kinds]
    style.foot(
        figure,
        [
            Line2D([], [], linestyle="none", marker=marker, markersize=6, color="#444444", label=label)
            for label, marker in ordered
        ],
    )
    for axes, places, colours, whiskers in placed:
        style.place_labels(figure, axes, places, colours, whiskers)
    every = [
        f"{_name(first[line['method']])} {style.number(line['cosine_mean'])} in {_seconds(line['fit_seconds_mean'])} s"
        for line in learners
    ]
    style.caption(figure, finding, f"{labels.metric_label('cosine')}: {', '.join(every)}")
    return figure


def _name(row: Mapping[str, Any]) -> str:
    return labels.label(row.get("dictionary") or row["method"])


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _panel(axes: Axes, metric: str, learners, levels, first) -> tuple[Axes, dict, dict, list]:
    places: dict[str, list[style.Point]] = {}
    colours: dict[str, str] = {}
    whiskers: list[tuple[style.Point, style.Point]] = []
    for line in levels:
        y = line[f"{metric}_mean"]
        axes.axhline(y, color="black", linewidth=1, linestyle=style.DASHED, zorder=1)
        text = axes.annotate(f"oracle {y:.2f}", (1, y), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points")
        text.set(ha="right")
    for line in learners:
        row = first[line["method"]]
        name, colour = _name(row), labels.colour(row.get("dictionary") or row["method"])
        x, y, dy = line["fit_seconds_mean"], line[f"{metric}_mean"], line[f"{metric}_sd"] or 0.0
        # On a log axis a whisker must not reach zero.
        below, above = min(line["fit_seconds_sd"] or 0.0, 0.9 * x), line["fit_seconds_sd"] or 0.0
        axes.errorbar(x, y, dy, [[below], [above]], color=colour, linewidth=0.8, zorder=2)
        axes.plot(x, y, _KINDS.get(str(row.get("family")), _REST)[1], markersize=6, color=colour, zorder=3)
        colours[name] = colour
        places.setdefault(name, []).append((x, y))
        whiskers += [((x - below, y), (x + above, y)), ((x, y - dy), (x, y + dy))]
    axes.margins(y=0.12)
    axes.set_ylabel(style.axis_label(metric))
    return axes, places, colours, whiskers
