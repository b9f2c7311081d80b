"""The common style: titles in bold, conditions in grey, no text under 7 points."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from sae_gap.analysis import Lines as Lines
from sae_gap.analysis import Rows as Rows
from sae_gap.analysis.tables import summarise
from sae_gap.core import AnyPath
from sae_gap.figures import labels
from sae_gap.figures.labels import metric_label, perfect
from sae_gap.storage import Folder, Row

# The settings of matplotlib for the suite's figures, and nowhere else.
STYLE: Any = matplotlib.rc_params_from_file(
    Path(__file__).with_suffix(".mplstyle"), use_default_template=False
)
# Width of a figure in inches: a page's text.
WIDTH = 6.4
# Matplotlib's pattern of a dashed line.
DASHED = (0, (4, 2))
QUIET = "#555555"
_SIZES = ("num_latents", "sparsity", "input_dim", "num_samples")
# Names beside an axes are at least this share of its height apart.
_NAME_SHARE = 0.06
# A log axis whose ends have a smaller ratio also has ticks at 2 and 5.
_SHORT = 200


# Decorates a function that draws: the style stays with the figure, and it neither reads nor changes
# the caller's settings.
styled = matplotlib.style.context(STYLE, after_reset=True)


@styled
def save(figure: Figure | None, folder: AnyPath | Folder, stem: str) -> tuple[str, ...]:
    """Writes a figure as `<stem>.png` and `<stem>.pdf`, each replaced whole; equal figures give
    equal bytes. None, the figure of nothing to draw, is skipped.

    The figure's label is kept as its caption: the `Description` of the PNG file and the `Subject`
    of the PDF file.

    Args:
      figure: the figure.
      folder: the folder to write to.
      stem: the name of the files without an ending.

    Returns:
      The names of the files.

    Raises:
      OSError: the folder cannot be written to.
    """
    if not figure:
        return ()
    caption = str(figure.get_label())
    described: Any = {
        "png": {"Software": None, "Description": caption},
        "pdf": {
            "Creator": None,
            "Producer": None,
            "CreationDate": None,
            "Subject": caption,
        },
    }
    for ending, metadata in described.items():
        content = BytesIO()
        figure.savefig(content, format=ending, metadata=metadata)
        Folder(folder).write(f"{stem}.{ending}", content.getvalue())
        # Laid out once for both files, as layout takes as long as drawing.
        figure.set_layout_engine("none")
    return f"{stem}.png", f"{stem}.pdf"


def finish(
    figure: Figure,
    rows: Lines,
    handles: Sequence[Any] = (),
    *,
    title: str,
    more: str = "",
    caption: str = "",
) -> None:
    """Writes the title over the figure and, below it, the common conditions of all rows and the
    legend; sets the caption.

    Args:
      figure: the figure; it grows by its legend, and its layout leaves room for the rest.
      rows: the rows that it shows.
      handles: entries of the legend below the figure.
      title: says what is drawn.
      more: further conditions.
      caption: what readers of the page should know beside the title and the conditions.
    """
    note = "; ".join(part for part in (describe(rows), more) if part)
    title = title[:1].upper() + title[1:]
    figure.set_label(
        " ".join(f"{sentence}." for sentence in (title, note, caption) if sentence)
    )
    # A name may be longer than the page is wide.
    text = "\n".join(wrap(title, 70))
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, fontweight="bold")
    widths = text_widths(handle.get_label() for handle in handles)
    ncols, down = layout(len(handles), int(WIDTH / (0.45 + max(widths, default=0))))
    figure.set_figheight(figure.get_figheight() + 0.18 * down)
    note = "\n".join(wrap(note, 95))
    legend = figure.legend(
        handles=handles, title=note, loc="outside lower center", ncols=ncols
    )
    legend.get_title().set_color(QUIET)


def describe(rows: Lines) -> str:
    """Returns the sizes that all rows share, and the number of seeds, if any has one."""
    notes = []
    for name in _SIZES:
        values = {row.get(name) for row in rows}
        if len(values) == 1 and None not in values:
            notes.append(labels.label(values.pop(), name))
    seeds = len({row.get("seed") for row in rows} - {None})
    if seeds:
        notes.append(f"{seeds} seed{'s' * (seeds > 1)}")
    return ", ".join(notes)


def means(rows: Rows, by: Sequence[str], metrics: Sequence[str]) -> list[Row]:
    """Returns the lines of `tables.summarise` that have all of the metrics."""
    lines = summarise(rows, by=by, metrics=metrics)
    return [
        line
        for line in lines
        if all(line[f"{name}_mean"] is not None for name in metrics)
    ]


def text_widths(texts: Iterable[str]) -> list[float]:
    """Returns the widths of some texts in inches."""
    figure = Figure()
    return [
        figure.text(0, 0, text).get_window_extent().width / figure.dpi for text in texts
    ]


def axis_label(metric: str) -> str:
    """Returns the label of an axis, with the best value if there is one."""
    best = perfect(metric)
    label = metric_label(metric)
    return label if best is None else f"{label} ({best:g} is perfect)"


def name_along(axis: Axis, names: Sequence[str]) -> None:
    """Writes names along an axis, and removes its line and ticks."""
    axis.set_ticks(range(len(names)), names, fontsize=9)
    axis.set_tick_params(length=0)
    axis.axes.spines["left" if axis is axis.axes.yaxis else "bottom"].set_visible(False)


def name_ends(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Writes names beside axes, level with the ends of their lines, or below the name before.

    Args:
      axes: the axes, with their limits set.
      ends: by name, x and y of the end of a line, and its colour.
    """
    low, high = axes.get_ylim()
    apart = (high - low) * _NAME_SHARE
    place = np.inf
    for name in sorted(ends, key=lambda name: -ends[name][1]):
        x, y, colour = ends[name]
        place = min(y, place - apart)
        axes.annotate(
            name,
            (x, y),
            (1.04, place),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.5,
                "color": colour,
                "relpos": (0, 0.5),
            },
        )


def layout(count: int, most: int) -> tuple[int, int]:
    """Returns the columns, at most `most`, and the rows in which `count` things stand."""
    down = -(-max(1, count) // max(1, most))
    return -(-count // down), down


def panels(
    titles: Sequence[str],
    wide: float,
    tall: float,
    sides: tuple[str, str],
    **shares: Any,
) -> tuple[Figure, list[Axes]]:
    """Makes a figure of axes, which share what `shares` says, of a least width and height, with a
    label for each direction.
    """
    count = len(titles)
    across, down = layout(
        count, int((WIDTH - 1) / max(wide, 0.1 + max(text_widths(titles))))
    )
    figure = Figure(figsize=(WIDTH, 1.2 + tall * down))
    used, spare = np.split(
        figure.subplots(down, across, squeeze=False, **shares).ravel(), [count]
    )
    for axes, title in zip(used, titles, strict=True):
        axes.set_title(title)
        axes.tick_params(labelbottom=True)
    for axes in spare:
        axes.remove()
    for axes in used[-across:]:
        axes.set_xlabel(sides[0])
    figure.supylabel(sides[1])
    return figure, list(used)


def swatch(label: str, colour: str) -> Patch:
    """Makes an entry of a legend that stands for a colour."""
    return Patch(facecolor=colour, label=label)


def log_axis(axis: Axis, values: Iterable[float], most: int = 0) -> None:
    """Makes an axis logarithmic, with a place for zero if zero is among the values.

    Args:
      axis: an axis of the axes.
      values: all values along it.
      most: up to this many values have a tick each; more get ticks at powers of ten, or at 1, 2 and
        5.
    """
    known = sorted(set(values))
    positive = [value for value in known if value > 0]
    if not positive:
        return
    # Limits that were found on a linear scale may leave too much room.
    axis.axes.autoscale(axis=axis.axis_name)  # type: ignore[attr-defined]
    set_scale = getattr(axis.axes, f"set_{axis.axis_name}scale")  # type: ignore[attr-defined]
    if known[0] > 0:
        set_scale("log")
    else:
        set_scale("symlog", linthresh=positive[0], linscale=0.5)
    if len(known) <= most:
        axis.set_major_locator(FixedLocator(known))
    elif positive[-1] < _SHORT * positive[0] and known[0] > 0:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_locator(NullLocator())
