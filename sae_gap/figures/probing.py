"""What probes lose out of distribution, a line for each of the codes that they read."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sae_gap.figures import labels, style

# By the columns that a probe reads.
_PROBES = {"dense": ("#0072B2", "o"), "k=1": ("#D55E00", "s"), "k=5": ("#E69F00", "^"), "k=20": ("#009E73", "D")}
_CODES = {"own": "own codes", "own_refit": "least squares on own", "lasso": "lasso", "lasso_refit": "least squares on lasso"}


@style.styled
def ood_drop(lines: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], tasks: str = "pairs") -> Figure:
    """The drop of each kind of probe on each kind of codes, with intervals of 95 % over tasks.

    Args:
      lines: of `sae_gap.measure.probing.overall`.
      rows: what they are of.
      tasks: what the tasks are called.

    Returns:
      The figure.
    """
    lines = [line for line in lines if line["drop"] is not None]
    places = {(line["dictionary"], line["codes"]): _name(line) for line in lines}
    order = [*places]
    figure = Figure(figsize=(style.WIDTH, 1.6 + 0.24 * len(places)))
    axes = figure.add_subplot()
    shown = {line["probe"] for line in lines}
    for line in lines:
        colour, marker = _PROBES[line["probe"]]
        up = order.index((line["dictionary"], line["codes"])) + 0.17 * ([*_PROBES].index(line["probe"]) - 1.5)
        axes.errorbar(line["drop"], up, xerr=line["drop_half"], color=colour, linewidth=0.8, zorder=2)
        axes.plot(line["drop"], up, linestyle="none", marker=marker, markersize=3.5, color=colour, zorder=3)
    for place in range(1, len(places)):
        if order[place][0] != order[place - 1][0]:
            axes.axhline(place - 0.5, color=style.QUIET, linewidth=0.5, zorder=1)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, linestyle=style.DASHED, zorder=1)
    axes.set_yticks(range(len(places)), [*places.values()])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("AUC lost out of distribution (0 is no loss)")
    handles = [
        style.mark(
            "all columns" if name == "dense" else f"{name[2:]} latents".replace("1 latents", "1 latent"), color=c, marker=m
        )
        for name, (c, m) in _PROBES.items()
        if name in shown
    ]
    told = [f"{_name(line)}, {line['probe']}: {line['drop']:.3f}" for line in lines]
    more = f"{lines[0]['pairs']} {tasks}, intervals of 95 % over {tasks}"
    style.finish(figure, _finding(lines), rows, "; ".join(told), more=more, handles=handles)
    return figure


def _name(line: Mapping[str, Any]) -> str:
    """Controls have the suite's labels; everything else keeps the user's name."""
    if line["codes"] not in _CODES:
        return line["codes"]
    name = labels.label(line["dictionary"]) if line["role"] == "control" else line["dictionary"]
    return f"{name}: {_CODES[line['codes']]}"


def _finding(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the best codes on the first SAE's dictionary change, or else what probes of the activations lose."""
    changed = [line for line in lines if line["codes"] == "lasso_refit" and line["more_drop_half"] is not None]
    own = [line for line in lines if line["codes"] == "own"]
    best = [line for line in changed if own and line["dictionary"] == own[0]["dictionary"] and line["probe"] == "dense"]
    if best:
        line = best[0]
        told = f"the best codes on the dictionary of {line['dictionary']} change what dense probes lose out of distribution by"
        return f"{told} {line['more_drop']:+.3f} ± {line['more_drop_half']:.3f} of AUC"
    line = next(line for line in lines if line["probe"] == "dense")
    return f"dense probes of the {_name(line)} lose {line['drop']:.3f} of AUC out of distribution"
