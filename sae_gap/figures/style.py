"""One visual language: the finding in bold, the sizes in grey below, colours from `labels`, no text under 7 points."""

import functools
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

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
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "hatch.linewidth": 1.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    # Type 42 keeps the text of a PDF selectable, as journals ask.
    "pdf.fonttype": 42,
    # Names are the user's, to the letter: a dollar sign in one begins no formula.
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# Width of a figure in inches, that of a page of text.
WIDTH = 6.4
# Matplotlib's pattern of a dashed line.
DASHED = (0, (4, 2))
INK, QUIET = "#333333", "#555555"
_LINE = 1.3
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
    caption = str(figure.get_label()) or None
    described: dict[str, dict[str, str | None]] = {
        "png": {"Software": None} | ({"Description": caption} if caption else {}),
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None, "Subject": caption},
    }
    for ending, metadata in described.items():
        content = io.BytesIO()
        figure.savefig(content, format=ending, dpi=200, metadata=metadata)
        Folder(folder).write(f"{stem}.{ending}", content.getvalue())
    return f"{stem}.png", f"{stem}.pdf"


def head(figure: Figure, finding: str, rows: Sequence[Mapping[str, Any]], *, deviation: str = "", more: str = "") -> None:
    """Writes the finding over the figure and, below it, what all rows share; both wrap where they are too long.

    Args:
      figure: the figure; its layout leaves the room.
      finding: a sentence.
      rows: what is drawn.
      deviation: what shows ± 1 sd over seeds, where there are several.
      more: what else the note says.
    """
    note = describe(rows)
    note += f"; {deviation}: ± 1 sd" if deviation and not note.endswith("1 seed") else ""
    note += f"; {more}" if more else ""
    canvas = FigureCanvasAgg(figure)
    pad, down = 6.0, 6.0
    for text, size, weight, colour in ((_sentence(finding), 10, "bold", "black"), (note, 8, "normal", QUIET)):
        artist = Annotation(
            "",
            (0, 1),
            (pad, -down),
            xycoords="figure fraction",
            textcoords="offset points",
            va="top",
            fontsize=size,
            fontweight=weight,
            color=colour,
            linespacing=_LINE,
            annotation_clip=False,
        )
        figure.add_artist(artist)
        artist.set_text(_wrapped(artist, text, figure.bbox.width - 2 * pad * figure.dpi / 72, canvas))
        down += (artist.get_text().count("\n") + 1) * size * _LINE + 1
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (down + 3) / 72 / figure.get_figheight()))  # type: ignore[union-attr, call-arg]


def _wrapped(artist: Annotation, text: str, width: float, canvas: FigureCanvasAgg) -> str:
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        artist.set_text(longer)
        if lines and artist.get_window_extent(canvas.get_renderer()).width <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sizes that all rows share, and the number of seeds."""
    words = {"num_latents": "latents", "sparsity": "active", "input_dim": "dimensions", "num_samples": "samples"}
    shared = {name: values.pop() for name in words if len(values := {row.get(name) for row in rows}) == 1}
    notes = [f"{value:,} {words[name]}" for name, value in shared.items() if value is not None]
    seeds = len({row.get("seed") for row in rows})
    return ", ".join([*notes, "1 seed" if seeds == 1 else f"{seeds} seeds"])


def caption(figure: Figure, *sentences: str) -> None:
    """Sets what a reader who cannot see the figure should know of it: the finding with its numbers."""
    figure.set_label(" ".join(f"{_sentence(sentence).rstrip('.')}." for sentence in sentences if sentence))


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


def spread(mean: float | None, sd: float | None) -> str:
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
    renderer = FigureCanvasAgg(Figure()).get_renderer()
    font = FontProperties(size=size)
    return max((renderer.get_text_width_height_descent(text, font, False)[0] / renderer.dpi for text in texts), default=0.0)


def axis_label(metric: str) -> str:
    """The label of an axis, with the best value where there is one."""
    best = labels.perfect(metric)
    label = labels.metric_label(metric)
    return label if best is None else f"{label} ({best:g} is perfect)"


def foot(figure: Figure, handles: Sequence[Any] = (), label: str = "") -> None:
    """Puts the label of all x axes and, below it, a legend under the figure; the layout, `head` being done, leaves the room.

    The legend has as few rows as its width allows, with its columns even.
    """
    canvas, point = FigureCanvasAgg(figure), figure.dpi / 72
    up = 4.0
    for rows in range(1, len(handles) + 1):
        columns = -(-len(handles) // rows)
        # Handles fill columns downwards; read along the rows they should keep their order.
        order = [handles[place] for column in range(columns) for place in range(column, len(handles), columns)]
        look: dict[str, Any] = {
            "columnspacing": 1.5,
            "handlelength": 1.8,
            "handletextpad": 0.6,
            "borderpad": 0,
            "borderaxespad": 0,
        }
        found = figure.legend(
            handles=order, loc="lower center", bbox_to_anchor=(0.5, up / 72 / figure.get_figheight()), ncols=columns, **look
        )
        found.set_in_layout(False)
        box = found.get_window_extent(canvas.get_renderer())
        if box.width <= figure.bbox.width - 8 * point or columns == 1:
            up += box.height / point + 5
            break
        found.remove()
    if label:
        below = Annotation(
            "", (0.5, 0), (0, up), xycoords="figure fraction", textcoords="offset points", va="bottom", ha="center"
        )
        below.set(text=label, fontsize=9, annotation_clip=False)
        figure.add_artist(below)
        up += below.get_window_extent(canvas.get_renderer()).height / point + 4
    engine: Any = figure.get_layout_engine()
    top = sum(engine.get()["rect"][1::2])
    bottom = up / 72 / figure.get_figheight()
    engine.set(rect=(0, bottom, 1, top - bottom))
    side = figure._supylabel  # type: ignore[attr-defined]
    if side is not None:
        side.set_y((bottom + top) / 2)


def halo(colour: Any) -> list[Any]:
    """What keeps a number legible on a line that runs behind it."""
    return [patheffects.withStroke(linewidth=2, foreground=colour)]


class Points:
    """Points with whiskers on one axes, in a colour a name, each name written once beside them."""

    def __init__(self, axes: Axes):
        self.axes = axes
        self.places: dict[str, list[Point]] = {}
        self.colours: dict[str, str] = {}
        self.whiskers: list[tuple[Point, Point]] = []

    def add(self, name: str, colour: str, place: Point, across: Point, up: float, **look: Any) -> None:
        """Draws a point, with whiskers so far to its left and right and so far up and down."""
        (x, y), (left, right) = place, across
        self.axes.errorbar(x, y, up, [[left], [right]], color=colour, linewidth=0.8, zorder=2)
        self.axes.plot(x, y, linestyle="none", color=colour, zorder=3, **look)
        self.places.setdefault(name, []).append(place)
        self.colours[name] = colour
        self.whiskers += [((x - left, y), (x + right, y)), ((x, y - up), (x, y + up))]

    def write_names(self) -> None:
        """Writes each name at the nearest spot beside one of its points that is clear of all else; the layout must be done."""
        figure: Any = self.axes.figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer, pixel = canvas.get_renderer(), figure.dpi / 72
        to_pixels = self.axes.transData.transform
        frame = self.axes.get_window_extent(renderer)
        spots = to_pixels([place for path in self.places.values() for place in path])
        taken = [Bbox([spot - 7 * pixel, spot + 7 * pixel]) for spot in spots]
        taken += [Bbox(to_pixels(ends)).padded(pixel) for ends in self.whiskers]
        taken += [text.get_window_extent(renderer) for text in self.axes.texts]
        angles = np.deg2rad([0, 180, 90, 270, 45, 135, 225, 315])
        offsets = [(reach * np.cos(angle), reach * np.sin(angle)) for reach in (10, 16, 24, 34, 46, 60, 80) for angle in angles]
        for name, path in self.places.items():
            best: tuple[float, Annotation | None, Bbox] = (np.inf, None, frame)
            for place, (right, up) in [(place, offset) for offset in offsets for place in path]:
                text = self.axes.annotate(
                    name, place, (right, up), textcoords="offset points", color=self.colours[name], zorder=6
                )
                text.set(ha="left" if right > 1 else "right" if right < -1 else "center", va="center", fontweight="bold")
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8})
                box = text.get_window_extent(renderer).padded(pixel)
                outside = not (frame.contains(*box.min) and frame.contains(*box.max))
                clashes = box.count_overlaps(taken) + 1_000 * outside
                if clashes < best[0]:
                    if best[1] is not None:
                        best[1].remove()
                    best = clashes, text, box
                else:
                    text.remove()
                if clashes == 0:
                    break
            taken.append(best[2])


def level(axes: Axes, height: float, text: str = "", up: float = 3) -> None:
    """A dashed line across, such as the oracle's score, with its name at its right end."""
    axes.axhline(height, color="black", linewidth=1, linestyle=DASHED, zorder=1)
    name = axes.annotate(text, (1, height), (0, up), xycoords=("axes fraction", "data"), textcoords="offset points")
    name.set(ha="right", va="bottom" if up > 0 else "top")


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


def name_of(row: Mapping[str, Any]) -> str:
    """What the dictionary of a row is called, or else its method."""
    return labels.label(row.get("dictionary") or row["method"])


def colour_of(row: Mapping[str, Any]) -> str:
    """The colour of the dictionary of a row, or else of its method."""
    return labels.colour(row.get("dictionary") or row["method"])


def first_rows(rows: Iterable[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    """A row of each method."""
    first: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["method"], row)
    return first


def values_label(values: Mapping[str, Any], varied: Iterable[str]) -> str:
    """What a line or a panel is called, by those of its columns that vary, or else by the first that it has a value of."""
    told = [labels.label(value, column) for column, value in values.items() if column in set(varied) and value is not None]
    return ", ".join(told or [labels.label(value, column) for column, value in values.items() if value is not None][:1])


def varied(groups: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """The columns in which groups differ; one that some lack does not count as a difference of those that have it alike."""
    return [column for column in columns if len({group[column] for group in groups if group[column] is not None}) > 1]
