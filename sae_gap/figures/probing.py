"""The drop of probes out of distribution, a line for each kind of codes that they read."""

from matplotlib.figure import Figure

from sae_gap.figures import style
from sae_gap.figures.lines import draw_lines
from sae_gap.figures.sae_measurement import codes_label, name_of
from sae_gap.storage.results import Row

# Looks by the columns that a probe reads.
_PROBES = {
    "dense": {"label": "all dimensions", "color": "#0072B2", "marker": "o", "linestyle": "none"},
    "k=1": {"label": "1 latent", "color": "#D55E00", "marker": "s", "linestyle": "none"},
    "k=2": {"label": "2 latents", "color": "#CC79A7", "marker": "v", "linestyle": "none"},
    "k=5": {"label": "5 latents", "color": "#E69F00", "marker": "^", "linestyle": "none"},
    "k=20": {"label": "20 latents", "color": "#009E73", "marker": "D", "linestyle": "none"},
    "k=all": {"label": "all latents", "color": "#000000", "marker": "x", "linestyle": "none"},
}


def ood_drop(lines: style.Lines, tasks: str) -> Figure:
    """Draws the drop of each kind of probe on each kind of codes, with 95 % intervals over tasks.

    Args:
      lines: the result of `sae_gap.probing.overall`.
      tasks: the name of the tasks.

    Returns:
      The figure.
    """
    lines = [line for line in lines if line["drop"] is not None]
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
        more=f"{lines[0]['pairs']} {tasks}, {lines[0]['splits']} splits of each, intervals of 95 % "
        f"over {tasks}",
    )
    (axes,) = figure.axes
    axes.axvline(0, color=style.QUIET, linewidth=0.6, linestyle=style.DASHED, zorder=1)
    axes.set_yticks(range(len(names)), [*names.values()])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    return figure


def _name(line: Row) -> str:
    codes = line["codes"]
    # Activations have no other name.
    return codes if codes == line["family"] else f"{name_of(line)}: {codes_label(codes)}"
