"""The page of a study, with its question and its findings: README.md, report.html, and page.json
for the report of all.

A text has paragraphs and lists; `words in backticks` are code, and everything else is literal.
Nothing here needs JAX, and only `publish` needs matplotlib.
"""

import base64
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markdown_it
import markupsafe

from sae_gap import figures
from sae_gap.analysis import Lines, Table, heading, tables
from sae_gap.core import AnyPath
from sae_gap.storage import Folder, version

FILE = "page.json"
# What the suite proves, for every page.
PROVED = (
    "A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is "
    "not proved, since least squares on the lasso's supports and matching pursuit carry no "
    "certificate."
)

# In the order of the page.
_MADE_BY = "date revision machine device precision"
_PACKAGES = "sae_gap python jax jaxlib equinox optax numpy scipy"


class Figure(NamedTuple):
    """A PNG file in the folder of the page, by its name, and its caption."""

    file: str
    caption: str


class Page(NamedTuple):
    """The page of a study.

    Attributes:
      title: a line.
      about: its question.
      command: the command, as a shell takes it.
      finding: the result, in a sentence or two.
      figures: in order.
      tables: in order.
      notes: facts on the run (time, memory, versions), by name.
      answers: tables in front of the figures.
    """

    title: str
    about: str
    command: str
    finding: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Mapping[str, str] = {}
    answers: Sequence[Table] = ()


class Entry(NamedTuple):
    """A study with its page and images.

    Attributes:
      page: the page.
      images: the figures as data URLs, by file.
      place: its folder, relative to the folder of all results; empty for a page by itself.
    """

    page: Page
    images: Mapping[str, str]
    place: str = ""


def publish(
    folder: AnyPath | Folder,
    page: Page,
    row: Mapping[str, Any] = {},
    drawn: Iterable[tuple[str, Any]] = (),
    files: Mapping[str, Lines] = {},
) -> None:
    """Writes a page with all that belongs to it: page.json, README.md and report.html, each
    replaced whole.

    Args:
      folder: the folder of the page, whose tables README.md links to.
      page: the page; figures that it has already are in the folder.
      row: a row, of whose provenance the page makes notes.
      drawn: further figures by their stems; None is skipped.
      files: lines of CSV files by their stems; without lines there is none.

    Raises:
      OSError: the folder lacks a figure, or cannot be written to.
    """
    folder = Folder(folder)
    for name, lines in files.items():
        if lines:
            tables.write_table(folder, f"{name}.csv", lines)
    shown = [
        Figure(figures.save(figure, folder, stem)[0], figure.get_label())
        for stem, figure in drawn
        if figure is not None
    ]
    notes = {**page.notes, **provenance(row)}
    page = page._replace(figures=[*page.figures, *shown], notes=notes)
    csv = [name for name in folder.names() if name.endswith(".csv")]
    for name, text in {
        FILE: json.dumps(page._asdict(), ensure_ascii=False, indent=1) + "\n",
        "README.md": _TEMPLATES.get_template("page.md").render(page=page, files=csv),
        "report.html": render([Entry(page, _images(folder, page))]),
    }.items():
        folder.write(name, text.encode())


def model_card(**parts: Any) -> str:
    """The card of an SAE for the README.md beside its weights, as Hugging Face reads it: what was
    measured, for programs at its head and then for people.

    Args:
      **parts: its `name`; the `line` of its metrics by their names, of which numbers are shown; the
        `sentences` on it; and which rows are `scored`.
    """
    return _TEMPLATES.get_template("model_card.md").render(
        parts, version=version("sae_gap")
    )


def read(folder: AnyPath | Folder, place: str = "") -> Entry:
    """Reads the page in a folder, with its figures.

    Args:
      folder: as for `publish`.
      place: the report's name for the folder.

    Raises:
      ValueError: page.json, or a figure that it shows, cannot be read.
    """
    folder = Folder(folder)
    try:
        found = json.loads(folder.read(FILE))
        found["figures"] = [Figure(*one) for one in found["figures"]]
        for name in ("tables", "answers"):
            found[name] = [Table(*one) for one in found[name]]
        page = Page(**found)
        return Entry(page, _images(folder, page), place)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the page in {folder} cannot be read ({error}); run its study again."
        ) from error


def folders(folder: Folder, place: str = "") -> Iterator[tuple[str, Folder]]:
    """A folder of results and all within it, by their paths relative to the first, in the order of
    their names.
    """
    yield place, folder
    for name in folder.folders():
        # Rows and models are thousands of files without a page.
        if name not in ("rows", "models"):
            yield from folders(folder / name, f"{place}/{name}".lstrip("/"))


def _images(folder: Folder, page: Page) -> dict[str, str]:
    return {
        figure.file: "data:image/png;base64,"
        + base64.b64encode(folder.read(pathlib.Path(figure.file).name)).decode()
        for figure in page.figures
    }


def render(entries: Sequence[Entry]) -> str:
    """One self-contained page of HTML, which loads nothing from elsewhere: for one study, or for
    several with a list of contents.

    Args:
      entries: the studies, in order.

    Raises:
      ValueError: a table shows a column that none of its lines has.
    """
    return _TEMPLATES.get_template("page.html").render(entries=entries)


def provenance(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's provenance (revision, machine, device, versions), as notes of a page."""
    known = {name: str(value) for name, value in row.items() if value is not None}
    made = {name: known[name] for name in _MADE_BY.split() if name in known}
    versions = ", ".join(
        f"{name} {known[name]}" for name in _PACKAGES.split() if name in known
    )
    return made | ({"versions": versions} if versions else {})


def first_sentence(text: str) -> str:
    """The first sentence of a text, without its backticks."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.replace("`", ""), maxsplit=1)[0]


def _number(text: Any) -> Any:
    """A number in print: a true minus, and a power of ten for an exponent."""
    safe = (
        str(markupsafe.escape(text)).replace("-", "\N{MINUS SIGN}").replace("e+", "e")
    )
    return markupsafe.Markup(
        re.sub(r"e(\N{MINUS SIGN}?)0*(\d+)", r"×10<sup>\1\2</sup>", safe)
    )


def _escaped(text: Any) -> str:
    """A text in which Markdown reads only the code in backticks."""
    # An underscore within a word, as in every method's name, is safe and stays readable.
    marks = r"(`[^`\n]+`)|[\\`*\[\]<|~$&]|(?<!\w)_|_(?!\w)"
    return re.sub(marks, lambda found: found[1] or f"\\{found[0]}", text)


_MARKDOWN = markdown_it.MarkdownIt("zero").enable(["backticks", "list"])
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).with_name("templates")),
    autoescape=jinja2.select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "text": lambda text: markupsafe.Markup(_MARKDOWN.render(text)),
    "line": lambda text: markupsafe.Markup(_MARKDOWN.renderInline(text)),
    "first_sentence": first_sentence,
    "number": _number,
    "escaped": _escaped,
    "grid": tables.grid,
    "heading": heading,
    "sha256": lambda text: base64.b64encode(
        hashlib.sha256(text.encode()).digest()
    ).decode(),
}
