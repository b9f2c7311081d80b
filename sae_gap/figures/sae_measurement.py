"""A user's SAE: its place beside the curves, the coherence of its atoms, and what probes of its
codes tell out of distribution, also beside the nats that the codes cost.
"""

import re
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.analysis import BEST, is_control
from sae_gap.figures import MARKERS, draw_lines, labels
from sae_gap.figures.style import DASHED, QUIET, Lines, Rows
from sae_gap.storage import Row

# SAEs take these in order, and then again from the first; controls and other lines have colours in
# `sae_gap.figures.labels`.
_COLOURS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
)
_DUPLICATE = 0.95
_OWN: Any = {"marker": "D", "markersize": 6, "linestyle": "none", "zorder": 4}
_THIN: Any = {"markersize": 3, "linewidth": 0.9}
_CODES: Any = {
    "lasso_refit": {"marker": "o", "markersize": 3},
    "lasso": _THIN | {"marker": "s", "linestyle": DASHED},
    "omp": _THIN | {"marker": "^", "linestyle": ":"},
    "screened": _THIN | {"marker": "v", "linestyle": "-."},
    "weighted": _THIN | {"marker": "P", "linestyle": (0, (5, 1))},
    "own": _OWN,
    "own_refit": _OWN | {"markerfacecolor": "white"},
}
_OTHER: Any = _THIN | {"marker": "x"}


def fvu_curve(rows: Rows) -> Figure | None:
    """Draws FVU, and if known the divergence that a reconstruction causes, against mean L0.

    Args:
      rows: rows of `dictionary` and `codes`, with `l0`, `fvu` and perhaps `kl`.

    Returns:
      The figure, or None if there is nothing to draw.
    """
    hidden = {None, "proposed", "omp_refit", "screened_refit", "weighted_refit"}
    shown = [
        row
        for row in rows
        if row.get("fvu") is not None and row.get("codes") not in hidden
    ]
    codes = {
        name: {"label": codes_label(name)} | _CODES.get(name, _OTHER)
        for name in dict.fromkeys([*_CODES, *(row["codes"] for row in shown)])
    }
    # A dead encoder would set the scale.
    points = [
        row for row in shown if row["l0"] > 0 and row["fvu"] > 0 and not row.get("dead")
    ]
    points.sort(key=lambda row: row["l0"])
    if not points:
        return None
    metrics = [metric for metric in ("fvu", "kl") if metric in points[0]]
    count = shown[0].get("num_scored")
    return draw_lines(
        points,
        "l0",
        metrics,
        dash="codes",
        looks={"dictionary": _looks(shown), "codes": codes},
        logy=metrics,
        of=shown,
        title="Variance unexplained by number of active latents",
        more=f"{count:,} held-out samples" if count else "",
    )


def codes_label(codes: str) -> str:
    """Returns the label of codes, from an encoder of the suite or of the user."""
    if codes in BEST:
        return BEST[codes]
    plain = codes.removesuffix("_refit")
    label = labels.label(plain, "inference")
    return label if plain == codes else f"{label}, values refitted"


def name_of(row: Row) -> str:
    """Returns the suite's label of a control, and the user's name of anything else."""
    return labels.label(row["dictionary"]) if is_control(row) else row["dictionary"]


def trained_name(name: str) -> str:
    """Returns the name of what `train_real` trained as people say it, and others as they are."""
    kind, start, base = name.partition("_from_")
    stem = re.sub("(_skip)?_transcoder$", "", kind)
    method = labels.label(stem).removesuffix(" SAE")
    return method + (kind.removeprefix(stem) + start).replace("_", " ") + base


def coherence(rows: Rows) -> Figure | None:
    """Draws the coherence of each dictionary: the largest |cosine| of each atom with another, in
    ascending order.

    Args:
      rows: rows of a measurement; `coherence` holds quantiles at equal steps.

    Returns:
      The figure, or None if no dictionary has two live atoms.
    """
    shown = [*{row["dictionary"]: row for row in rows if row.get("coherence")}.values()]
    if not shown:
        return None
    points = [
        {"dictionary": row["dictionary"], "share": share, "coherence": value}
        for row in shown
        for share, value in zip(
            np.linspace(0, 100, len(row["coherence"])), row["coherence"], strict=True
        )
    ]
    points.append({"dictionary": None, "coherence": _DUPLICATE})
    alike = {None: {"label": "nearly the same atom", "color": QUIET}}
    figure = draw_lines(
        points,
        "share",
        ("coherence",),
        looks={"dictionary": _looks(shown) | alike},
        logx=False,
        of=shown,
        title="How alike the atoms of each dictionary are",
    )
    figure.axes[0].set(xlim=(0, 100), ylim=(0, 1.02))
    return figure


def _looks(rows: Lines) -> Any:
    """Returns colours: SAEs' by their order, controls' by their names."""
    spare = cycle(_COLOURS)
    return {
        name: {
            "label": name_of(row),
            "color": labels.colour(name) if is_control(row) else next(spare),
        }
        for name, row in {row["dictionary"]: row for row in rows}.items()
    }


def _probe(label: str, colour: str, marker: str) -> dict[str, str]:
    return {"label": label, "color": colour, "marker": marker, "linestyle": "none"}


# Looks by the columns that a probe reads.
_PROBES = {
    "dense": _probe("all dimensions", "#0072B2", "o"),
    "k=1": _probe("1 latent", "#D55E00", "s"),
    "k=2": _probe("2 latents", "#CC79A7", "v"),
    "k=5": _probe("5 latents", "#E69F00", "^"),
    "k=20": _probe("20 latents", "#009E73", "D"),
    "k=all": _probe("all latents", "#000000", "x"),
}


def ood_drop(lines: Lines) -> Figure:
    """Draws the drop of each kind of probe on each kind of codes, with 95 % intervals over pairs.

    Args:
      lines: the result of `sae_gap.probing.overall`.

    Returns:
      The figure.
    """
    names = {(line["dictionary"], line["codes"]): _name(line) for line in lines}
    places = {codes: place for place, codes in enumerate(names)}
    shifts = {probe: 0.17 * (place - 2.5) for place, probe in enumerate(_PROBES)}
    points = [
        line
        | {
            "drop_sd": line["drop_half"],
            "place": places[line["dictionary"], line["codes"]] + shifts[line["probe"]],
        }
        for line in lines
    ]
    spread = f"{lines[0]['pairs']} pairs, {lines[0]['splits']} splits of each"
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
        more=f"{spread}, intervals of 95 % over pairs",
    )
    (axes,) = figure.axes
    axes.axvline(0, color=QUIET, linewidth=0.6, linestyle=DASHED, zorder=1)
    axes.set_yticks(range(len(names)), [*names.values()])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    return figure


def features_and_nats(
    lines: Lines, patched: Lines, probe: str = "k=5"
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
        {
            **line,
            "kl": costs[key],
            "auc_ood_sd": line["auc_ood_half"],
            "text": codes_label(key[1]),
        }
        for line in lines
        if line["probe"] == probe
        and (key := (line["dictionary"], line["codes"])) in costs
    ]
    if not points:
        return None
    kinds = dict.fromkeys((point["codes"], point["text"]) for point in points)
    looks = {
        codes: {"label": label, "linestyle": "none", **marker}
        for (codes, label), marker in zip(kinds, cycle(MARKERS), strict=False)
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
    if codes == line["family"]:
        return codes
    return f"{name_of(line)}: {codes_label(codes)}"
