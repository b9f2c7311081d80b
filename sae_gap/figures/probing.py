"""What probes of codes tell out of distribution, and beside the nats that the codes cost."""

import itertools

from matplotlib.figure import Figure

from sae_gap.figures import MARKERS, codes_label, draw_lines, name_of, style
from sae_gap.storage import Row

# Looks by the columns that a probe reads.
_PROBES = {
    "dense": {"label": "all dimensions", "color": "#0072B2", "marker": "o", "linestyle": "none"},
    "k=1": {"label": "1 latent", "color": "#D55E00", "marker": "s", "linestyle": "none"},
    "k=2": {"label": "2 latents", "color": "#CC79A7", "marker": "v", "linestyle": "none"},
    "k=5": {"label": "5 latents", "color": "#E69F00", "marker": "^", "linestyle": "none"},
    "k=20": {"label": "20 latents", "color": "#009E73", "marker": "D", "linestyle": "none"},
    "k=all": {"label": "all latents", "color": "#000000", "marker": "x", "linestyle": "none"},
}


def ood_drop(lines: style.Lines) -> Figure:
    """Draws the drop of each kind of probe on each kind of codes, with 95 % intervals over pairs.

    Args:
      lines: the result of `sae_gap.probing.overall`.

    Returns:
      The figure.
    """
    names = {(line["dictionary"], line["codes"]): _name(line) for line in lines}
    order, probes = [*names], [*_PROBES]
    points = [
        {
            **line,
            "drop_sd": line["drop_half"],
            "place": order.index((line["dictionary"], line["codes"]))
            + 0.17 * (probes.index(line["probe"]) - (len(probes) - 1) / 2),
        }
        for line in lines
    ]
    figure = draw_lines(
        points,
        "drop",
        ("place",),
        line="probe",
        looks={"probe": _PROBES},
        logx=False,
        size=(1.8, 0.24 * len(names)),
        of=lines,
        title="AUC that probes lose out of distribution",
        more=f"{lines[0]['pairs']} pairs, {lines[0]['splits']} splits of each, intervals of 95 % "
        "over pairs",
    )
    (axes,) = figure.axes
    axes.axvline(0, color=style.QUIET, linewidth=0.6, linestyle=style.DASHED, zorder=1)
    axes.set_yticks(range(len(names)), [*names.values()])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    return figure


def features_and_nats(
    lines: style.Lines, patched: style.Lines, probe: str = "k=5"
) -> Figure | None:
    """Draws the AUC of one kind of probe out of distribution against the nats that the same codes
    cost, a point for each dictionary and codes.

    Args:
      lines: the result of `sae_gap.probing.overall`.
      patched: rows of codes with their `kl`, at the L0 that was probed.
      probe: the probe, by its name.

    Returns:
      The figure, or None if no codes have both.
    """
    costs = {(row["dictionary"], row["codes"]): row["kl"] for row in patched}
    points = [
        {**line, "kl": costs[key], "auc_ood_sd": line["auc_ood_half"], "text": codes_label(key[1])}
        for line in lines
        if line["probe"] == probe and (key := (line["dictionary"], line["codes"])) in costs
    ]
    if not points:
        return None
    kinds = dict.fromkeys((point["codes"], point["text"]) for point in points)
    looks = {
        codes: {"label": label, "linestyle": "none", **marker}
        for (codes, label), marker in zip(kinds, itertools.cycle(MARKERS), strict=False)
    }
    return draw_lines(
        points,
        "kl",
        ("auc_ood",),
        dash="codes",
        looks={"codes": looks},
        logx=False,
        size=(2.6, 3.4),
        of=lines,
        title=f"What {_PROBES[probe]['label']} tell, and the nats that their codes cost",
        more=f"{lines[0]['pairs']} pairs, intervals of 95 % over pairs",
    )


def _name(line: Row) -> str:
    codes = line["codes"]
    # Activations have no other name.
    return codes if codes == line["family"] else f"{name_of(line)}: {codes_label(codes)}"
