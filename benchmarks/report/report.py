"""One page of all results: a self-contained HTML file with every study found under a folder, to read in a browser or to send.

    python -m sae_gap report --results_dir=results

Each folder with a page.json is a section: what was asked, what was found, the command, figures, tables, the agreement with the
published numbers, and what the rows were made by. The file needs no network and no script, and shows what the folders hold, so
the same folders give the same bytes.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from benchmarks import cli
from benchmarks.report import pages, pictures
from benchmarks.report.rendering import NUMBERS, Entry, render
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Store

FLAGS = flags.FlagValues()
_RESULTS_DIR = flags.DEFINE_string("results_dir", "results", "Where the folders of the studies are.", flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.  [report.html in results_dir]", flag_values=FLAGS)

# In the order of the page. Other columns of a row say how it was measured, which its section says already.
_MAKING = ("date", "revision", "machine", "device", "precision")
_VERSIONS = {"python": "Python", "numpy": "NumPy", "scipy": "SciPy"}
_PACKAGES = ("sae_gap", "python", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy")


def collect(folder: str | os.PathLike[str] | Folder) -> list[Entry]:
    """Reads every study under a folder.

    Args:
      folder: of results; itself or any folder below it may hold a page.json.

    Returns:
      The studies, by the names of their folders.

    Raises:
      ValueError: a page.json, a figure or a published.csv is damaged or missing; the message names it.
    """
    folder, found = Folder(folder), []
    for home in _homes(folder):
        page = pages.read(home)
        name = page.study if str(home) == str(folder) else str(home)[len(str(folder)) + 1 :]
        pictures = tuple(_picture(home, figure.file) for figure in page.figures)
        found.append(Entry(name, page, pictures, _comparison(home), _provenance(home)))
    return found


def _homes(folder: Folder) -> list[Folder]:
    """The folders at and below a folder that have a page."""
    inner = [name for name in folder.folders() if name not in ("rows", "models")]
    own = [folder] if folder.exists(pages.FILE) else []
    return own + [home for name in inner for home in _homes(folder / name)]


def _picture(folder: Folder, file: str) -> pictures.Picture:
    try:
        return pictures.read(folder, file)
    except FileNotFoundError:
        raise ValueError(f"{folder}/{pages.FILE} shows {file}, which is not there; run its study again.") from None


def _comparison(folder: Folder) -> tuple[dict[str, str], ...]:
    if not folder.exists("published.csv"):
        return ()
    fault = ValueError(f"{folder}/published.csv is not a comparison with the published numbers; delete it and run it again.")
    try:
        reader = csv.DictReader(io.StringIO(folder.read("published.csv").decode(), newline=""), strict=True)
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError):
        raise fault from None
    if not {"metric", *NUMBERS, "close"} <= set(reader.fieldnames or ()):
        raise fault
    for row in rows:
        # Of a short line the rest is None, and of a long one the surplus has the name None.
        if None in row or None in row.values() or row["close"] not in ("True", "False"):
            raise fault
        try:
            # A number that was published for one seed has no deviation.
            numbers = [float(row[name]) for name in NUMBERS if row[name] or name != "published_sd"]
        except ValueError:
            raise fault from None
        if not all(map(math.isfinite, numbers)):
            raise fault
    return tuple(rows)


def _provenance(folder: Folder) -> dict[str, str]:
    """What a row in a folder says of its making."""
    rows = Store(folder).rows()
    return _making(rows[-1]) if rows else {}


def _making(row: Mapping[str, Any]) -> dict[str, str]:
    found = {name.capitalize(): str(row[name]) for name in _MAKING if row.get(name) is not None}
    versions = [f"{_VERSIONS.get(name, name)} {row[name]}" for name in _PACKAGES if row.get(name) is not None]
    return found | ({"Versions": ", ".join(versions)} if versions else {})


def main() -> None:
    folder = cli.folder("results_dir", _RESULTS_DIR.value)
    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    try:
        entries = collect(folder)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    if not entries:
        raise cli.UsageError(f"there are no results in {folder}; run a study first, or name its folder by --results_dir.")
    if output is not None and output.is_dir():
        raise cli.UsageError(f"--output must name a file, but {output} is a folder.")
    home, name = (folder, "report.html") if output is None else (Folder(output.parent), output.name)
    content = render(entries).encode()
    home.write(name, content)
    count = f"{len(entries)} {'study' if len(entries) == 1 else 'studies'}"
    logging.info("%s in %s/%s, %.1f MB", count, home, name, len(content) / 1e6)


if __name__ == "__main__":
    cli.run(main, FLAGS)
