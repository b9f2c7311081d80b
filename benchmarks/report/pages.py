"""The page of a study: what was asked, what was found, figures and tables. README.md is for people, page.json for the report.

Texts are plain; `a word in backticks` is set as code, and an empty line parts paragraphs. Nothing here needs JAX or matplotlib.
"""

import dataclasses
import json
import math
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sae_gap.figures import tables
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Row

FILE = "page.json"
_FORMAT = "sae_gap page 1"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CODE = re.compile(r"`([^`\n]+)`")


class Figure(NamedTuple):
    """A PNG file in the folder of the page, by its name, and what it shows."""

    file: str
    caption: str


class Table(NamedTuple):
    """Lines of a summary.

    Attributes:
      title: what the lines are.
      columns: names of metrics or of columns of the lines, in order, each with its heading.
      lines: as `tables.summarise` gives them.
    """

    title: str
    columns: Mapping[str, str]
    lines: Sequence[Mapping[str, Any]]


class Column(NamedTuple):
    """A column of a table as it is shown.

    Attributes:
      heading: of the column.
      numeric: whether every value is a number, so that the cells belong at the right.
      cells: the mean, or the value, and the deviation of each line; an empty string where there is none.
    """

    heading: str
    numeric: bool
    cells: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """What a study shows. Lists become tuples, and NaN and infinity None, so that a page equals what is read back.

    Attributes:
      study: its name.
      title: a line.
      about: what was asked.
      command: what was run, as a shell takes it.
      finding: what came out, in a sentence or two.
      figures: in order; see `Figure`.
      tables: in order; see `Table`.
      notes: what a reader should know of the run (time, memory, compilations), by name.

    Raises:
      ValueError: a part has the wrong type, a figure is not the name of a PNG file, or a table shows a column of no line.
    """

    study: str
    title: str
    about: str
    command: str
    finding: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("study", "title", "about", "command", "finding"):
            _text(name, getattr(self, name))
        for name in ("study", "title"):
            if not getattr(self, name).strip():
                raise ValueError(f"`{name}` is empty.")
        figures = [_figure(figure) for figure in _items("figures", self.figures)]
        if len({figure.file for figure in figures}) < len(figures):
            raise ValueError("a figure is listed twice.")
        object.__setattr__(self, "figures", tuple(figures))
        object.__setattr__(self, "tables", tuple(_table(table) for table in _items("tables", self.tables)))
        object.__setattr__(self, "notes", _texts("notes", self.notes))


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, but it is {value!r:.60}.")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", value):
        raise ValueError(f"{what} holds a character that no text has: {value!r:.60}.")
    return value


def _texts(what: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be names with a text each, but it is {value!r:.60}.")
    return {_text(f"a name in {what}", name): _text(f"{name} in {what}", text) for name, text in value.items()}


def _items(what: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{what} must be a list, but it is {value!r:.60}.")
    return value


def _parts(what: str, value: Any, count: int) -> Sequence[Any]:
    if len(_items(what, value)) != count:
        raise ValueError(f"{what} must have {count} parts, but it is {value!r:.60}.")
    return value


def _figure(value: Any) -> Figure:
    file, caption = _parts("a figure", value, 2)
    # A page may come from anyone: a path out of its folder would put any file of the reader's into the report.
    if not isinstance(file, str) or not re.fullmatch(r"[^/\\\x00-\x1f]+\.png", file) or file.startswith("."):
        raise ValueError(f"a figure must be the name of a PNG file in the page's folder, but it is {file!r:.60}.")
    return Figure(file, _text(f"the caption of {file}", caption))


def _table(value: Any) -> Table:
    title, columns, lines = _parts("a table", value, 3)
    columns = _texts(f"the columns of the table {_text('the title of a table', title)!r}", columns)
    if not columns:
        raise ValueError(f"the table {title!r} has no columns.")
    kept = tuple(_line(line) for line in _items(f"the lines of the table {title!r}", lines))
    for name in columns:
        if kept and not any(name in line or f"{name}_mean" in line for line in kept):
            raise ValueError(f"the table {title!r} shows {name!r}, which none of its lines has.")
    return Table(title, columns, kept)


def _line(value: Any) -> Row:
    if not isinstance(value, Mapping):
        raise ValueError(f"a line of a table must be names with a value each, but it is {value!r:.60}.")
    line: Row = {}
    for name, entry in value.items():
        _text("a name in a line of a table", name)
        # Scalars of NumPy turn into Python's own, without an import of it.
        entry = entry.item() if hasattr(entry, "item") and getattr(entry, "ndim", 0) == 0 else entry
        if isinstance(entry, str):
            _text(f"{name} in a line of a table", entry)
        elif not isinstance(entry, int | float | None):
            raise ValueError(f"{name} in a line of a table must be a number, a text or None, but it is {entry!r:.60}.")
        if name.endswith(("_mean", "_sd")) and isinstance(entry, str | bool):
            raise ValueError(f"{name} in a line of a table must be a number or None, but it is {entry!r:.60}.")
        line[name] = None if isinstance(entry, float) and not math.isfinite(entry) else entry
    return line


def write(folder: str | os.PathLike[str] | Folder, page: Page) -> None:
    """Writes the page into its folder, as README.md and page.json; each is replaced whole.

    README.md links to summary.csv and to the files of rows that are in the folder, so it is written after them.

    Args:
      folder: where the figures are; made if it is not there.
      page: what it shows.

    Raises:
      ValueError: a figure is not in the folder.
      OSError: the folder cannot be written to.
    """
    folder = Folder(folder)
    names = folder.names()
    for figure in page.figures:
        if figure.file not in names:
            raise ValueError(f"the page shows {figure.file}, but {folder} has no such file; save the figure first.")
    content = json.dumps({"format": _FORMAT} | dataclasses.asdict(page), ensure_ascii=False, indent=1, allow_nan=False)
    folder.write(FILE, (content + "\n").encode())
    folder.write("README.md", _markdown(names, page).encode())


def read(folder: str | os.PathLike[str] | Folder) -> Page:
    """Reads the page that a folder holds.

    Args:
      folder: what `write` was given.

    Returns:
      The page that was written.

    Raises:
      ValueError: page.json is damaged, or is not a page; the message names the file and the fault.
      OSError: there is no page.json, or it cannot be read.
    """
    folder = Folder(folder)
    path = f"{folder}/{FILE}"
    try:
        content = json.loads(folder.read(FILE))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: it is not JSON; delete it and run its study again.") from None
    names = {field.name for field in dataclasses.fields(Page)}
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a page of a study (its format is not {_FORMAT!r}); move it away.")
    if content.keys() != names | {"format"}:
        name = min(content.keys() ^ (names | {"format"}))
        fault = f"{name!r:.60} is missing" if name in names else f"{name!r:.60} is unknown"
        raise ValueError(f"{path} is damaged: {fault}; delete it and run its study again.")
    try:
        return Page(**{name: content[name] for name in names})
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {str(error).removesuffix('.')}; delete it and run its study again.") from None


def show(table: Table) -> list[Column]:
    """The cells of a table as people read them: `0.485`, `6.7×10⁻³`, a true minus, each deviation apart from its mean.

    Args:
      table: what to show.

    Returns:
      A column for each of the table's, in order.
    """
    return [_column(name, heading, table.lines) for name, heading in table.columns.items()]


def _column(name: str, heading: str, lines: Sequence[Mapping[str, Any]]) -> Column:
    values = [line.get(f"{name}_mean", line.get(name)) for line in lines]
    numeric = any(value is not None for value in values) and not any(isinstance(value, str | bool) for value in values)
    if not any(f"{name}_mean" in line for line in lines):
        return Column(heading, numeric, tuple((_value(value), "") for value in values))
    # The terminal and the page must never round one number in two ways.
    text = tables.format_table([{key: line.get(key) for key in (f"{name}_mean", f"{name}_sd")} for line in lines], {name: ""})
    cells = []
    for cell in text.split("\n")[2:]:
        mean, _, sd = cell.strip().partition(" ± ")
        cells.append(("" if mean == "-" else _number(mean), _number(sd)))
    return Column(heading, numeric, tuple(cells))


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(str(value) if isinstance(value, int) else f"{value:.6g}")
    return " ".join(str(value).split())


def _number(text: str) -> str:
    mantissa, e, exponent = text.partition("e")
    power = f"×10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if e else ""
    whole, point, rest = mantissa.replace("-", "\N{MINUS SIGN}").partition(".")
    return re.sub(r"\B(?=(\d{3})+$)", ",", whole) + point + rest + power


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def spans(text: str) -> Iterable[tuple[str, bool]]:
    """The parts of a text, and whether each is code, which stands in backticks.

    Args:
      text: of one paragraph.

    Yields:
      The parts in order, without the backticks.
    """
    for place, part in enumerate(_CODE.split(text)):
        if part:
            yield part, place % 2 == 1


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line and without its backticks."""
    line = "".join(part for part, _ in spans(" ".join(text.split())))
    return re.split(r"(?<=[.!?]) +(?=[A-Z])", line, maxsplit=1)[0]


def alternative(figure: Figure) -> str:
    """What stands for a figure that cannot be seen: the first sentence of its caption, else its file's name in words."""
    return first_sentence(figure.caption) or figure.file.removesuffix(".png").replace("_", " ").replace("-", " ")


def _markdown(names: Sequence[str], page: Page) -> str:
    parts = [f"# {_line_of_markdown(page.title)}"]
    parts += [f"**{_line_of_markdown(part)}**" for part in paragraphs(page.finding)]
    parts += [_line_of_markdown(part) for part in paragraphs(page.about)]
    if page.command.strip():
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", page.command)), default=0))
        parts.append(f"{fence}sh\n{page.command.strip()}\n{fence}")
    for figure in page.figures:
        parts.append(f"![{_plain_markdown(alternative(figure))}]({urllib.parse.quote(figure.file)})")
        parts += [_line_of_markdown(part) for part in paragraphs(figure.caption)]
    for table in page.tables:
        parts += [f"## {_line_of_markdown(table.title)}", _markdown_table(table)]
    if page.notes:
        lines = [f"- {_line_of_markdown(name)}: {_line_of_markdown(note)}" for name, note in page.notes.items()]
        parts += ["## Notes on the run", "\n".join(lines)]
    files = [name for name in ("summary.csv",) if name in names]
    if files:
        parts += ["## Files", "\n".join(f"- [{name}]({name})" for name in files)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    columns = show(table)
    headings = " | ".join(_plain_markdown(column.heading) for column in columns)
    rules = " | ".join("---:" if column.numeric else "---" for column in columns)
    lines = [f"| {headings} |", f"| {rules} |"]
    for cells in zip(*(column.cells for column in columns), strict=True):
        shown = [_plain_markdown(f"{mean} ± {sd}" if sd else mean or "–") for mean, sd in cells]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def _line_of_markdown(text: str) -> str:
    line = "".join(f"`{part}`" if code else _plain_markdown(part) for part, code in spans(" ".join(text.split())))
    # These begin a list, a heading or a rule, but only at the beginning of a line.
    return re.sub(r"^(\d*)([-+#>.)])", r"\1\\\2", line)


def _plain_markdown(text: str) -> str:
    # An underscore within a word, as every name of a method has, is safe and stays legible.
    return re.sub(r"[\\`*\[\]<|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)
