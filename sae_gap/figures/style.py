"""One visual language: the finding in bold, the sizes in grey below, colours from `labels`, no text under 7 points."""

import functools
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sae_gap.figures import labels
from sae_gap.storage.folder import Folder

# What figures are drawn from.
Rows = Iterable[Mapping[str, Any]]
# A place in a figure, (x, y).
Point = tuple[float, float]
_P, _R = ParamSpec("_P"), TypeVar("_R")

# What matplotlib is told within a figure of the suite, and nowhere else.
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.constrained_layout.use": True,
    "figure.labelsize": 9,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "hatch.linewidth": 1.5,
    "legend.borderpad": 0,
    "legend.columnspacing": 1.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.6,
    "legend.title_fontsize": 9,
    # Type 42 keeps the text of a PDF selectable, as journals ask.
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    # Names are the user's, to the letter: a dollar sign in one begins no formula.
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# Width of a figure in inches, that of a page of text.
WIDTH = 6.4
# Matplotlib's pattern of a dashed line.
DASHED = (0, (4, 2))
MARKERS = "os^DvPXp<>h*"
INK, QUIET = "#333333", "#555555"
# Numbers within this ratio of each other are level.
LEVEL = 1.05


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Draws in the style, which stays with the figure: the caller's own settings are neither read nor changed."""

    @functools.wraps(draw)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return wrapped


@styled
def save(figure: Figure, folder: str | os.PathLike[str] | Folder, stem: str) -> tuple[str, str]:
    """Writes a figure as `<stem>.png` and `<stem>.pdf`, each replaced whole; equal figures give equal bytes.

    Its label is kept as its caption: the `Description` of the PNG file and the `Subject` of the PDF file.

    Args:
      figure: the figure.
      folder: where to.
      stem: the name of the files without its ending.

    Returns:
      The names of the two files.

    Raises:
      OSError: the folder cannot be written to.
    """
    caption = str(figure.get_label())
    described: dict[str, dict[str, str | None]] = {
        "png": {"Software": None, "Description": caption},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None, "Subject": caption},
    }
    engine = figure.get_layout_engine()
    try:
        for ending, metadata in described.items():
            content = io.BytesIO()
            figure.savefig(content, format=ending, metadata=metadata)
            Folder(folder).write(f"{stem}.{ending}", content.getvalue())
            # Laid out once for both, which takes as long as to draw.
            figure.set_layout_engine("none")
    finally:
        figure.set_layout_engine(engine)
    return f"{stem}.png", f"{stem}.pdf"


def finish(
    figure: Figure,
    finding: str,
    rows: Sequence[Mapping[str, Any]],
    *told: str,
    deviation: str = "",
    more: str = "",
    handles: Sequence[Any] = (),
    label: str = "",
    side: str = "",
) -> None:
    """Writes the finding over the figure and, below it, what all rows share; sets the caption and the legend.

    Args:
      figure: the figure; its layout leaves the room.
      finding: a sentence.
      rows: what is drawn.
      told: further sentences of the caption, which tells a reader who cannot see the figure its finding with its numbers.
      deviation: what shows ± 1 sd over seeds, where there are several.
      more: what else the note says.
      handles: of the legend below the figure.
      label: of all x axes, between them and the legend.
      side: a label of all y axes.
    """
    note = describe(rows)
    note += f"; {deviation}: ± 1 sd" if deviation and not note.endswith("1 seed") else ""
    note += f"; {more}" if more else ""
    point, down = 1 / 72 / figure.get_figheight(), 6.0
    for text, size, weight, colour in ((_sentence(finding), 10, "bold", "black"), (note, 8, "normal", QUIET)):
        look: dict[str, Any] = {"fontsize": size, "fontweight": weight, "color": colour, "linespacing": 1.3}
        artist = figure.text(6 / 72 / figure.get_figwidth(), 1 - down * point, "", va="top", **look)
        _wrap(artist, text, figure.bbox.width - 12 * figure.dpi / 72)
        down += artist.get_window_extent().height / figure.dpi * 72 + 4
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - down * point))  # type: ignore[union-attr, call-arg]
    figure.set_label(" ".join(f"{_sentence(sentence).rstrip('.')}." for sentence in (finding, *told) if sentence))
    foot = _legend(figure, handles, label) if handles or label else 0.0
    if side:
        figure.supylabel(side, y=(1 - down * point + foot) / 2)


def _wrap(artist: Text, text: str, width: float) -> None:
    """Sets a text in lines of at most a width; matplotlib's own wrapping reads dollar signs as formulas."""
    first, *words = text.split(" ")
    artist.set_text(first)
    for word in words:
        before = artist.get_text()
        artist.set_text(f"{before} {word}")
        if artist.get_window_extent().width > width:
            artist.set_text(f"{before}\n{word}")


def _legend(figure: Figure, handles: Sequence[Any], label: str) -> float:
    """Puts a legend below in as few rows as its width allows, with its columns even, and returns its share of the height."""
    for rows in itertools.count(1):
        columns = max(1, -(-len(handles) // rows))
        # Handles fill columns downwards; read along the rows they should keep their order.
        order = [handles[place] for column in range(columns) for place in range(column, len(handles), columns)]
        legend = figure.legend(handles=order, loc="outside lower center", ncols=columns, title=label)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width - 8 * figure.dpi / 72:
            break
        legend.remove()
    return box.height / figure.bbox.height


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sizes that all rows share, and the number of seeds."""
    words = {"num_latents": "latents", "sparsity": "active", "input_dim": "dimensions", "num_samples": "samples"}
    shared = {name: values.pop() for name in words if len(values := {row.get(name) for row in rows}) == 1}
    notes = [f"{value:,} {words[name]}" for name, value in shared.items() if value is not None]
    seeds = len({row.get("seed") for row in rows})
    return ", ".join([*notes, "1 seed" if seeds == 1 else f"{seeds} seeds"])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def number(value: float | None, *, signed: bool = False) -> str:
    """A number for people: two decimals for what is of order one, two figures for what is far from it."""
    return "–" if value is None else _number(value, _form(value, signed=signed), signed=signed)


def two_numbers(one: float, other: float) -> tuple[str, str]:
    """Two numbers for people, with two figures each where two decimals would hide that they differ."""
    texts = number(one), number(other)
    low, high = sorted((abs(one), abs(other)))
    return (f"{one:.2g}", f"{other:.2g}") if texts[0] == texts[1] and high >= LEVEL * low > 0 else texts


def format_sd(mean: float | None, sd: float | None) -> str:
    """A mean with its deviation, where it has one, to the same decimals."""
    if mean is None or sd is None:
        return number(mean)
    return f"{number(mean)} ± {_number(sd, _form(mean if abs(mean) >= sd else sd)) if sd else '0'}"


def _form(value: float, *, signed: bool = False) -> str:
    size = abs(value)
    if size == 0 or 0.01 <= size < 10 or (signed and size < 0.01):
        return ".2f"
    return ",.0f" if 10 <= size < 1e6 else ".1e"


def _number(value: float, form: str, *, signed: bool = False) -> str:
    text = f"{value:{'+' if signed else ''}{form}}"
    # A change that rounds to nothing has no direction.
    return text.lstrip("+-") if signed and not any(digit in text for digit in "123456789") else text.replace("-", "−")


def inches(texts: Iterable[str], size: float) -> float:
    """The width of the widest text."""
    figure = Figure()
    drawn = [figure.text(0, 0, text, fontsize=size) for text in texts]
    return max((text.get_window_extent().width for text in drawn), default=0.0) / figure.dpi


def axis_label(metric: str) -> str:
    """The label of an axis, with the best value where there is one."""
    best = labels.perfect(metric)
    label = labels.metric_label(metric)
    return label if best is None else f"{label} ({best:g} is perfect)"


def halo(colour: Any) -> list[Any]:
    """What keeps a number legible on a line that runs behind it."""
    return [patheffects.withStroke(linewidth=2, foreground=colour)]


def level(axes: Axes, height: float, text: str = "", up: float = 3) -> None:
    """A dashed line across, such as the oracle's score, with its name at its right end."""
    axes.axhline(height, color="black", linewidth=1, linestyle=DASHED, zorder=1)
    name = axes.annotate(text, (1, height), (0, up), xycoords=("axes fraction", "data"), textcoords="offset points")
    name.set(ha="right", va="bottom" if up > 0 else "top")


def layout(count: int, most: int) -> tuple[int, int]:
    """How many of a number of panels stand side by side, at most so many, and in how many rows, as even as may be."""
    down = -(-count // max(1, most))
    return -(-count // down), down


def panels(figure: Figure, titles: Sequence[str], across: int) -> list[Axes]:
    """Axes of one scale, so many side by side, each under its title."""
    every = list(figure.subplots(-(-len(titles) // across), across, sharex=True, sharey=True, squeeze=False).ravel())
    for axes, title in zip(every, titles, strict=False):
        axes.set_title(title, loc="left", fontsize=8)
        axes.tick_params(labelbottom=True)
    for axes in every[len(titles) :]:
        axes.remove()
    return every[: len(titles)]


def mark(label: str, **look: Any) -> Line2D:
    """An entry of a legend: a point in a grey that is nobody's colour."""
    return Line2D([], [], label=label, **({"linestyle": "none", "color": "#444444"} | look))


def whiskers(mean: Any, sd: Any, *, log: bool) -> np.ndarray:
    """How far whiskers reach down and up; on a log axis they must not reach zero."""
    return np.stack([np.minimum(sd, 0.9 * np.abs(mean)) if log else np.asarray(sd), np.asarray(sd)])


def titles(groups: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """What panels are called, by the columns in which they differ."""
    told = varied(groups, columns)
    return [values_label(group, told) for group in groups]


def values_label(values: Mapping[str, Any], varied: Iterable[str]) -> str:
    """What a line or a panel is called, by those of its columns that vary, or else by the first that it has a value of."""
    told = [labels.label(value, column) for column, value in values.items() if column in set(varied) and value is not None]
    return ", ".join(told or [labels.label(value, column) for column, value in values.items() if value is not None][:1])


def varied(groups: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """The columns in which groups differ; one that some lack does not count as a difference of those that have it alike."""
    return [column for column in columns if len({group[column] for group in groups if group[column] is not None}) > 1]
