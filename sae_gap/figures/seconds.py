"""What is bought with time: what a learner recovers, and how accurate a solver is."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import labels, log_axes, style
from sae_gap.figures.points import Method, Points, methods
from sae_gap.storage.results import CELL

_KINDS = {"dictionary_learning": ("dictionary learning", "s"), "peer": ("other libraries", "D")}
_REST = ("SAE", "o")
# The relative duality gap that the solvers are timed to.
TARGET = 1e-6
# Gaps below what double precision can tell are drawn at its edge.
_LEAST = 1e-16
_ONE_CELL = ("world", *CELL, "input_dim", "lam")


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
    rows, metrics = list(rows), ("cosine", "mcc_ood")
    found = methods(rows, ("fit_seconds", *metrics))
    learners = [method for method in found if method.row.get("dictionary") != "oracle"]
    if not learners:
        return None
    figure = Figure(figsize=(style.WIDTH, 7.6))
    panels = [Points(axes, logx=True) for axes in figure.subplots(2, 1, sharex=True)]
    kinds = [_KINDS.get(str(method.row.get("family")), _REST) for method in learners]
    for which, (points, metric) in enumerate(zip(panels, metrics, strict=True), 1):
        for method in found:
            if method not in learners:
                style.level(points.axes, method.means[which], f"oracle {method.means[which]:.2f}")
        for method, (_, marker) in zip(learners, kinds, strict=True):
            seconds, score = method.means[0], method.means[which]
            look = {"marker": marker, "markersize": 6}
            points.add(method.name, method.colour, (seconds, score), method.sds[0], method.sds[which], **look)
        points.axes.margins(y=0.12)
        points.axes.set_ylabel(style.axis_label(metric))
    ends = [x for points in panels for pair in points.whiskers for x, _ in pair]
    margin = max((max(ends) / min(ends)) ** 0.15, 2.0)
    axes = panels[1].axes
    axes.set(xscale="log", xlim=(min(ends) / margin, max(ends) * margin))
    log_axes.round_ticks(axes.xaxis)
    axes.set_xlabel("seconds to learn the dictionary, compilation apart")
    words = [f"{method.name} {style.number(method.means[1])} in {_seconds(method.means[0])} s" for method in learners]
    drawn = [kind for kind in (*_KINDS.values(), _REST) if kind in kinds]
    handles = [style.mark(label, marker=marker, markersize=6) for label, marker in drawn]
    told = f"{labels.metric_label('cosine')}: {', '.join(words)}"
    style.finish(figure, _finding(learners), rows, told, deviation="whiskers", handles=handles)
    for points in panels:
        points.write_names()
    return figure


def _finding(learners: Sequence[Method]) -> str:
    best = max(learners, key=lambda method: method.means[1])
    spent, score = _seconds(best.means[0]), style.number(best.means[1])
    rivals = sum(style.number(method.means[1]) == score for method in learners) - 1
    if len(learners) == 1:
        return f"{best.name} recovers the dictionary to a cosine of {score} in {spent} s"
    if rivals:
        return f"{best.name} and {rivals} more recover the most of the dictionary, to a cosine of {score}"
    return f"{best.name} recovers the most of the dictionary, in {spent} s"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


@style.styled
def gap_by_seconds(rows: style.Rows) -> Figure | None:
    """The worst relative duality gap that each solver leaves, against the seconds that it takes, a line a solver.

    Args:
      rows: rows of one cell with `method`, `seconds` and `relative_gap_max`, one for each `effort` of a solver; those without
        a gap, of coders that do not minimise the lasso, are left out.

    Returns:
      The figure, or None where no solver has a gap.

    Raises:
      ValueError: the rows are of several cells.
    """
    rows = [row for row in rows if row.get("relative_gap_max") is not None]
    if not rows:
        return None
    mixed = [name for name in _ONE_CELL if len({row.get(name) for row in rows}) > 1]
    if mixed:
        raise ValueError(f"rows differ in {', '.join(mixed)}; draw one cell at a time.")
    figure = Figure(figsize=(style.WIDTH, 4.6))
    axes = figure.add_subplot()
    points = Points(axes)
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [(row["seconds"], max(row["relative_gap_max"], _LEAST)) for row in rows if row["method"] == name]
        # By accuracy: times are noisy, and a line ordered by them would run back and forth.
        path = sorted(mine, key=lambda place: -place[1])
        label, colour = labels.label(name, "solver"), labels.colour(name, "solver")
        axes.plot(*zip(*path, strict=True), marker="o", markersize=5, linewidth=1.2, color=colour, zorder=3)
        points.places[label], points.colours[label] = path[-1:] + path[:1], colour
    axes.set(xscale="log", yscale="log", xlabel="seconds, compilation apart", ylabel="worst relative duality gap")
    axes.margins(x=0.18, y=0.15)
    style.level(axes, TARGET, "certified", up=-3)
    log_axes.round_ticks(axes.xaxis)
    log_axes.round_ticks(axes.yaxis)
    reached: list[Any] = [row for row in rows if row["relative_gap_max"] <= TARGET]
    if reached:
        best = min(reached, key=lambda row: row["seconds"])
        finding = f"{_solver(best)} is the first to certify every sample at 1e-6, in {best['seconds']:.2g} s"
    else:
        best = min(rows, key=lambda row: row["relative_gap_max"])
        finding = f"No solver certifies every sample at 1e-6; {_solver(best)} comes closest, at {best['relative_gap_max']:.1e}"
    every = ", ".join(f"{_solver(row)} {row['relative_gap_max']:.1e} in {row['seconds']:.2g} s" for row in rows)
    more = f"{rows[0]['world']} atoms, λ = {rows[0]['lam']:.3g}"
    style.finish(figure, finding, rows, f"Worst relative duality gap: {every}", more=more)
    points.write_names()
    return figure


def _solver(row: Any) -> str:
    return labels.label(row["method"], "solver")
