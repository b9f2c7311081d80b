"""What is bought with time: what a learner recovers, and how accurate a solver is."""

from matplotlib.figure import Figure

from sae_gap.figures import labels, style

# The relative duality gap that the solvers are timed to.
TARGET = 1e-6
# Gaps below what double precision can tell are drawn at its edge.
_LEAST = 1e-16


@style.styled
def recovery_by_seconds(rows: style.Rows) -> Figure | None:
    """What each learner recovers, of the dictionary and of the codes out of distribution, against
    the seconds that it takes.

    Args:
      rows: rows of one setting; `dictionary`, `fit_seconds`, `cosine` and `mcc_ood` are read, and
        the scores of the oracle's dictionary drawn as levels.

    Returns:
      The figure, or None where no learner has a score.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows, metrics = list(rows), ("cosine", "mcc_ood")
    lines = style.means(rows, ("method", "dictionary"), ("fit_seconds", *metrics))
    learned = [line for line in lines if line["dictionary"] != "oracle"]
    if not learned:
        return None
    looks = style.looks(line["dictionary"] for line in learned)
    figure = Figure(figsize=(style.WIDTH, 6.8))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, metrics, strict=True):
        for line in lines:
            score, name = line[f"{metric}_mean"], line["dictionary"]
            if name == "oracle":
                style.level(axes, score)
            else:
                sds = line[f"{metric}_sd"], line["fit_seconds_sd"]
                look = {"elinewidth": 0.8, "markersize": 6} | looks[name]
                axes.errorbar(line["fit_seconds_mean"], score, *sds, **look)
        axes.margins(0.12)
        axes.set_ylabel(style.axis_label(metric))
    style.log_axis(panels[1].xaxis, [line["fit_seconds_mean"] for line in learned])
    panels[1].set_xlabel("seconds to learn the dictionary, compilation apart")
    handles = [style.mark(labels.label(name), **look, markersize=6) for name, look in looks.items()]
    if len(learned) < len(lines):
        handles.append(style.mark("oracle", color="black", linewidth=1, linestyle=style.DASHED))
    title = "Recovery of dictionary and codes by seconds of learning"
    style.finish(figure, title, rows, spread="whiskers", handles=handles)
    return figure


@style.styled
def gap_by_seconds(rows: style.Rows) -> Figure | None:
    """The worst relative duality gap that each solver leaves, against the seconds that it takes, a
    line a solver.

    Args:
      rows: rows of one cell with `method`, `seconds` and `relative_gap_max`, one for each `effort`
        of a solver; those without a gap, of coders that do not minimise the lasso, are left out.

    Returns:
      The figure, or None where no solver has a gap.
    """
    rows = [row for row in rows if row.get("relative_gap_max") is not None]
    if not rows:
        return None
    figure = Figure(figsize=(style.WIDTH, 4.6))
    axes = figure.add_subplot()
    looks = style.looks((row["method"] for row in rows), "solver")
    for name, look in looks.items():
        mine = [row for row in rows if row["method"] == name]
        path = [(row["seconds"], max(row["relative_gap_max"], _LEAST)) for row in mine]
        # By accuracy: times are noisy, and a line ordered by them would run back and forth.
        path.sort(key=lambda place: -place[1])
        axes.plot(*zip(*path, strict=True), label=labels.label(name, "solver"), zorder=3, **look)
    style.level(axes, TARGET, label="certified below")
    axes.set(xlabel="seconds, compilation apart", ylabel="worst relative duality gap")
    style.log_axis(axes.xaxis, [row["seconds"] for row in rows])
    style.log_axis(axes.yaxis, [max(row["relative_gap_max"], _LEAST) for row in rows])
    more = f"{rows[0]['world']} atoms, λ = {rows[0]['lam']:.3g}"
    handles, _ = axes.get_legend_handles_labels()
    style.finish(figure, "Accuracy of each solver by seconds", rows, more=more, handles=handles)
    return figure
