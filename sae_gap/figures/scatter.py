"""Recovery in distribution against recovery out of it: what survives the shift."""

from matplotlib.figure import Figure

from sae_gap.figures import MARKERS, draw_lines, labels, style


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
