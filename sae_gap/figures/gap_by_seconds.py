"""What accuracy a solver of the lasso buys with its time."""

from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import labels, log_axes, style
from sae_gap.storage.results import CELL

# The relative duality gap that the solvers are timed to.
TARGET = 1e-6
# Gaps below what double precision can tell are drawn at its edge.
_LEAST = 1e-16
_CELL = ("world", *CELL, "input_dim", "lam")


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
    mixed = [name for name in _CELL if len({row.get(name) for row in rows}) > 1]
    if mixed:
        raise ValueError(f"rows differ in {', '.join(mixed)}; draw one cell at a time.")
    figure = Figure(figsize=(style.WIDTH, 4.6))
    axes = figure.add_subplot()
    lines = {name: [row for row in rows if row["method"] == name] for name in dict.fromkeys(row["method"] for row in rows)}
    places: dict[str, list[style.Point]] = {}
    colours: dict[str, str] = {}
    for name, line in lines.items():
        # By accuracy: times are noisy, and a line ordered by them would run back and forth.
        path = sorted(((row["seconds"], max(row["relative_gap_max"], _LEAST)) for row in line), key=lambda place: -place[1])
        label, colours_of = labels.label(name, "solver"), labels.colour(name, "solver")
        axes.plot(*zip(*path, strict=True), marker="o", markersize=5, linewidth=1.2, color=colours_of, zorder=3)
        places[label], colours[label] = path[-1:] + path[:1], colours_of
    axes.axhline(TARGET, color="black", linewidth=1, linestyle=style.DASHED, zorder=1)
    axes.set(xscale="log", yscale="log", xlabel="seconds, compilation apart", ylabel="worst relative duality gap")
    axes.margins(x=0.18, y=0.15)
    log_axes.round_ticks(axes.xaxis)
    log_axes.round_ticks(axes.yaxis)
    reached: list[Any] = [row for row in rows if row["relative_gap_max"] <= TARGET]
    if reached:
        best = min(reached, key=lambda row: row["seconds"])
        finding = f"{_name(best)} is the first to certify every sample at 1e-6, in {best['seconds']:.2g} s"
    else:
        best = min(rows, key=lambda row: row["relative_gap_max"])
        finding = f"No solver certifies every sample at 1e-6; {_name(best)} comes closest, at {best['relative_gap_max']:.1e}"
    weight = f"{rows[0]['world']} atoms, λ = {rows[0]['lam']:.3g}"
    style.head(figure, finding, rows, more=weight)
    axes.annotate("certified", (1, TARGET), (0, -3), xycoords=("axes fraction", "data"), textcoords="offset points").set(
        ha="right", va="top"
    )
    style.place_labels(figure, axes, places, colours, ())
    every = ", ".join(f"{_name(row)} {row['relative_gap_max']:.1e} in {row['seconds']:.2g} s" for row in rows)
    style.caption(figure, finding, f"Worst relative duality gap: {every}")
    return figure


def _name(row: Any) -> str:
    return labels.label(row["method"], "solver")
