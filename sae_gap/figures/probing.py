"""What probes of codes tell out of distribution, and beside the nats that the codes cost."""

import itertools
from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import MARKERS, codes_label, draw_lines, name_of, style

# Looks by the columns that a probe reads.
_PROBES = {
    probe: {"label": label, "color": colour, "marker": marker, "linestyle": "none"}
    for probe, label, colour, marker in (
        ("dense", "all dimensions", "#0072B2", "o"),
        ("k=1", "1 latent", "#D55E00", "s"),
        ("k=2", "2 latents", "#CC79A7", "v"),
        ("k=5", "5 latents", "#E69F00", "^"),
        ("k=20", "20 latents", "#009E73", "D"),
        ("k=all", "all latents", "#000000", "x"),
    )
}


def ood_drop(lines: style.Lines) -> Figure:
    """Draws the drop of each kind of probe on each kind of codes, with 95 % intervals over pairs.

    Args:
      lines: the result of `sae_gap.probing.overall`.

    Returns:
      The figure.
    """
    names = {(line["dictionary"], line["codes"]): _name(line) for line in lines}
    places = {codes: place for place, codes in enumerate(names)}
    shifts = {probe: 0.17 * (place - 2.5) for place, probe in enumerate(_PROBES)}
    points = []
    for line in lines:
        place = places[line["dictionary"], line["codes"]] + shifts[line["probe"]]
        points.append({**line, "drop_sd": line["drop_half"], "place": place})
    spread = f"{lines[0]['pairs']} pairs, {lines[0]['splits']} splits of each"
    about: Any = {"title": "AUC that probes lose out of distribution"}
    about |= {"more": f"{spread}, intervals of 95 % over pairs", "of": lines}
    about["size"] = (1.8, 0.24 * len(names))
    figure = draw_lines(
        points,
        "drop",
        ("place",),
        line="probe",
        looks={"probe": _PROBES},
        logx=False,
        **about,
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
    about: Any = {
        "title": f"What {_PROBES[probe]['label']} tell, and the nats that their codes cost",
        "more": f"{lines[0]['pairs']} pairs, intervals of 95 % over pairs",
        "size": (2.6, 3.4),
        "of": lines,
    }
    return draw_lines(
        points,
        "kl",
        ("auc_ood",),
        dash="codes",
        looks={"codes": looks},
        logx=False,
        **about,
    )


def _name(line):
    codes = line["codes"]
    # Activations have no other name.
    return codes if codes == line["family"] else f"{name_of(line)}: {codes_label(codes)}"
