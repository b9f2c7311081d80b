"""A user's SAE: its place beside the curves, and the coherence of its atoms."""

import itertools
import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sae_gap.figures import draw_lines, labels, style
from sae_gap.storage import Row

# SAEs take these in order, and then again from the first; controls and other lines have colours in
# `sae_gap.figures.labels`.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
_DUPLICATE = 0.95
_OWN: dict[str, Any] = {"marker": "D", "markersize": 6, "linestyle": "none", "zorder": 4}
_THIN: dict[str, Any] = {"markersize": 3, "linewidth": 0.9}
_CODES = {
    "lasso_refit": {"label": "least squares on lasso supports", "marker": "o", "markersize": 3},
    "lasso": _THIN | {"label": "certified lasso", "marker": "s", "linestyle": style.DASHED},
    "omp": _THIN | {"label": "orthogonal matching pursuit", "marker": "^", "linestyle": ":"},
    "screened": _THIN | {"label": "screened pursuit, pruned", "marker": "v", "linestyle": "-."},
    "weighted": _THIN | {"label": "screened, by nats", "marker": "P", "linestyle": (0, (5, 1))},
    "own": _OWN | {"label": "encoder"},
    "own_refit": _OWN | {"label": "encoder, values refitted", "markerfacecolor": "white"},
}


def fvu_curve(rows: style.Rows) -> Figure | None:
    """Draws FVU, and if known the divergence that a reconstruction causes, against mean L0.

    Args:
      rows: rows of `dictionary` and `codes`, with `l0`, `fvu` and perhaps `kl`.

    Returns:
      The figure, or None if there is nothing to draw.
    """
    shown = [row for row in rows if row.get("codes") and row.get("fvu") is not None]
    hidden = {"proposed"} | {f"{name}_refit" for name in ("omp", "screened", "weighted")}
    shown = [row for row in shown if row["codes"] not in hidden]
    codes = {
        name: _THIN | {"label": codes_label(name), "marker": "x"}
        for name in dict.fromkeys(row["codes"] for row in shown)
    } | _CODES
    # A dead encoder would set the scale.
    points = [row for row in shown if row["l0"] > 0 and row["fvu"] > 0 and not row.get("dead")]
    points.sort(key=lambda row: row["l0"])
    if not points:
        return None
    metrics = [metric for metric in ("fvu", "kl") if metric in points[0]]
    about: Any = {"title": "Variance unexplained by number of active latents"}
    if "num_scored" in shown[0]:
        about["more"] = f"{shown[0]['num_scored']:,} held-out samples"
    return draw_lines(
        points,
        "l0",
        metrics,
        dash="codes",
        looks={"dictionary": _looks(shown), "codes": codes},
        logy=metrics,
        of=shown,
        **about,
    )


def codes_label(codes: str) -> str:
    """Returns the label of codes, from an encoder of the suite or of the user."""
    if codes in _CODES:
        return _CODES[codes]["label"]
    plain = codes.removesuffix("_refit")
    label = labels.label(plain, "inference")
    return label if plain == codes else f"{label}, values refitted"


def name_of(row: Row) -> str:
    """Returns the suite's label of a control, and the user's name of anything else."""
    return labels.label(row["dictionary"]) if is_control(row) else row["dictionary"]


def trained_name(name: str) -> str:
    """Returns the name of what `train_real` trained as people say it, and others as they are."""
    kind, start, base = name.partition("_from_")
    trained, ending = re.fullmatch(r"(.*?)((?:_skip)?_transcoder)?", kind).groups("")  # type: ignore[union-attr]
    said = labels.label(trained).removesuffix(" SAE") + (ending + start).replace("_", " ")
    return said + base


def is_control(row: Row) -> bool:
    """True if the dictionary of a row is a control."""
    return row.get("family") == "control"


def coherence(rows: style.Rows) -> Figure | None:
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
    alike = {None: {"label": "nearly the same atom", "color": style.QUIET}}
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


def _looks(rows):
    """Returns colours: SAEs' by their order, controls' by their names."""
    spare = itertools.cycle(_COLOURS)
    return {
        name: {
            "label": name_of(row),
            "color": labels.colour(name) if is_control(row) else next(spare),
        }
        for name, row in {row["dictionary"]: row for row in rows}.items()
    }
