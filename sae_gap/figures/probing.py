"""What probes lose out of distribution, a line for each of the codes that they read."""

import itertools
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import style
from sae_gap.figures.sae_measurement import name_of

# By the columns that a probe reads.
_PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("all columns", {"color": "#0072B2", "marker": "o"}),
    "k=1": ("1 latent", {"color": "#D55E00", "marker": "s"}),
    "k=5": ("5 latents", {"color": "#E69F00", "marker": "^"}),
    "k=20": ("20 latents", {"color": "#009E73", "marker": "D"}),
}
_CODES = {
    "own": "own codes",
    "own_refit": "least squares on own",
    "lasso": "lasso",
    "lasso_refit": "least squares on lasso",
    "thresholded": "thresholding pursuit",
}


@style.styled
def ood_drop(lines: style.Lines, tasks: str = "pairs") -> Figure:
    """The drop of each kind of probe on each kind of codes, with intervals of 95 % over tasks.

    Args:
      lines: of `sae_gap.measure.probing.overall`.
      tasks: what the tasks are called.

    Returns:
      The figure.
    """
    lines = [line for line in lines if line["drop"] is not None]
    names = {(line["dictionary"], line["codes"]): _name(line) for line in lines}
    order = [*names]
    figure = Figure(figsize=(style.WIDTH, 1.6 + 0.24 * len(names)))
    axes = figure.add_subplot()
    shown = [probe for probe in _PROBES if any(line["probe"] == probe for line in lines)]
    for place, probe in enumerate(shown):
        mine = [line for line in lines if line["probe"] == probe]
        up = 0.17 * (place - (len(shown) - 1) / 2)
        heights = [order.index((line["dictionary"], line["codes"])) + up for line in mine]
        drops, halves = ([line[name] or 0.0 for line in mine] for name in ("drop", "drop_half"))
        look = _PROBES[probe][1]
        axes.errorbar(drops, heights, xerr=halves, linestyle="none", elinewidth=0.8, **look)
    for place, (one, other) in enumerate(itertools.pairwise(order)):
        if one[0] != other[0]:
            axes.axhline(place + 0.5, color=style.QUIET, linewidth=0.5, zorder=1)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, linestyle=style.DASHED, zorder=1)
    axes.set_yticks(range(len(names)), [*names.values()])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("AUC lost out of distribution (0 is no loss)")
    handles = [style.mark(_PROBES[probe][0], **_PROBES[probe][1]) for probe in shown]
    pairs, splits = (lines[0][name] for name in ("pairs", "splits"))
    more = f"{pairs} {tasks}, {splits} splits of each, intervals of 95 % over {tasks}"
    title = "AUC that probes lose out of distribution"
    style.finish(figure, title, lines, more=more, handles=handles)
    return figure


def _name(line: Mapping[str, Any]) -> str:
    codes = line["codes"]
    # Activations have no other name.
    return codes if codes == line["role"] else f"{name_of(line)}: {_CODES.get(codes, codes)}"
