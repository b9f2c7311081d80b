"""Accuracy and recovery against their cost in operations, products or seconds."""

from matplotlib.figure import Figure

from sae_gap.figures import codes_label, draw_lines, labels, trained_name
from sae_gap.figures.style import QUIET, Rows, means
from sae_gap.storage import Row

# Colours, markers and labels of codes, by name or by family and screens; others are named by
# `codes_label`.
_LINES = {
    "own": ("black", "D", "the SAE's encoder"),
    "screened_pursuit 1": ("#56B4E9", "o", "one screen"),
    "screened_pursuit 2": ("#0072B2", "o", "two screens"),
    "batch_pursuit 2": ("#EE3377", "o", "two screens, pruned"),
    "omp": ("#882255", "X"),
    "omp_pruned": ("#882255", "P", "OMP, pruned"),
    "fista None": ("#7F7F7F", "s", "FISTA"),
    "lasso_refit": ("black", ""),
    "lasso_pruned": ("#EE3377", "", "the lasso, pruned"),
}
_COSTS = {
    "products": "in multiply-adds",
    "processor": "in processor time, one thread",
}
_CAPTION = (
    "2×4 is two screens of four candidates for an atom; points of FISTA name its iterations. "
    "Pruned codes pursue twice as many atoms"
)


def budget(rows: Rows) -> Figure | None:
    """Draws the gap and the recovery of inference on one dictionary, out of distribution, against
    its cost.

    Args:
      rows: rows of one setting and dictionary with `inference`, `flops`, `relative_gap_ood` and
        `mcc_ood`, and `depth` or `iterations` if an inference has them. The certified lasso has no
        `flops` and is drawn as a level.

    Returns:
      The figure, or None if no inference has a cost and a gap.

    Raises:
      ValueError: the rows mix dictionaries, settings, protocols or values of lambda, or hold a seed
        twice.
    """
    rows = list(rows)
    metrics = ("relative_gap_ood", "mcc_ood")
    points = means(rows, ("inference", "depth", "iterations", "flops"), metrics)
    for point in points:
        point["text"] = str(point["depth"] or point["iterations"] or "")
        if not point["flops"]:
            # Its gap is zero, which a log axis cannot show.
            point["relative_gap_ood_mean"] = None
    points.sort(key=lambda point: point["flops"] or 0)
    return draw_lines(
        points,
        "flops",
        metrics,
        line="inference",
        logy=metrics[:1],
        size=(4, 2.6),
        of=rows,
        title="Amortisation gap and MCC by floating-point operations",
        caption="Numbers are the layers of LISTA and the iterations of ISTA and FISTA",
    )


def loss_by_cost(rows: Rows) -> Figure | None:
    """Draws the cost in nats of codes on one dictionary against their cost, in products with the
    dictionary and in processor time.

    Args:
      rows: rows with `codes`, `family`, `screens`, `breadth`, `products`, `processor` and `kl`.
        Rows without `products`, such as the certified lasso's, are drawn as levels.

    Returns:
      The figure, or None if no codes have a cost.
    """
    points = []
    for row in sorted(rows, key=lambda row: row["products"] or 0):
        line = _line(row)
        if line:
            points.append({**row, "line": line, "text": _text(row)})
    costly = [point for point in points if point["products"]]
    if not costly:
        return None
    looks = {}
    for name in [*_LINES, *(point["line"] for point in points)]:
        other = labels.colour(name, "inference"), "*"
        colour, marker, *labelled = _LINES.get(name, other)
        label = labelled[0] if labelled else codes_label(name)
        looks[name] = {"label": label, "color": colour, "marker": marker}
    l0s = [point["l0"] for point in costly]
    both = [
        {**point, "cost": point["products"] and point.get(column), "by": by}
        for column, by in _COSTS.items()
        for point in points
    ]
    figure = draw_lines(
        both,
        "cost",
        ("kl",),
        line="line",
        panel="by",
        looks={"line": looks},
        of=points[:1],
        title=f"Nats that codes on {trained_name(points[0]['dictionary'])} lose, by their cost",
        more=f"L0 {min(l0s):.0f} to {max(l0s):.0f}",
        caption=_CAPTION,
    )
    # The first iterations of FISTA would set the scale.
    heights = [point["kl"] for point in costly if point["family"] != "fista"]
    costs = [point["cost"] for point in both if point["cost"]]
    for axes in figure.axes:
        axes.set_ylim(0, 1.1 * max(heights) if heights else None)
        axes.set_xlim(min(0.5, *costs), 2 * max(costs))
        axes.axvline(1, color=QUIET, linewidth=0.6, linestyle=":", zorder=1)
    return figure


def _line(row: Row) -> str | None:
    """The line of a row; None for codes that have none."""
    codes = row["codes"]
    if codes == row["family"] not in ("own", "omp", "lasso"):
        # An encoder that goes by its name alone, outside the families here.
        return codes
    line = codes if codes in _LINES else f"{row['family']} {row['screens']}"
    has_place = row["products"] or row["family"] == "lasso"
    return line if line in _LINES and has_place else None


def _text(row: Row) -> str:
    """The name of a point."""
    if row["screens"]:
        return f"{row['screens']}×{row['breadth']}"
    if row["codes"] == "own":
        return ""
    return str(row.get("iterations") or row["codes"].replace("_", " "))


def recovery_by_seconds(rows: Rows) -> Figure | None:
    """Draws each learner's recovery, of the dictionary and of the codes out of distribution,
    against the seconds that it takes.

    Args:
      rows: rows of one setting, with `dictionary`, `fit_seconds`, `cosine` and `mcc_ood`; the
        scores of the oracle's dictionary are drawn as levels.

    Returns:
      The figure, or None if no learner has a score.

    Raises:
      ValueError: the rows mix settings, protocols or values of lambda, or hold a seed twice.
    """
    rows = list(rows)
    metrics = ("cosine", "mcc_ood")
    points = means(rows, ("method", "dictionary"), ("fit_seconds", *metrics))
    for point in points:
        if point["dictionary"] == "oracle":
            point["fit_seconds_mean"] = None
    return draw_lines(
        points,
        "fit_seconds",
        metrics,
        of=rows,
        title="Recovery of dictionary and codes by seconds of learning",
    )
