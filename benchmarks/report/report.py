"""One page of all results: a self-contained HTML file with every study found under a folder, to read in a browser or to send.

    python -m sae_gap report --results_dir=results

Each folder with a page.json is a section: what was found and asked, figures, tables, the agreement with the published numbers,
the command, and what the rows were made by. The file needs no network and no script, and shows what the folders hold, so the
same folders give the same bytes.
"""

import os
import pathlib

from absl import flags, logging

from benchmarks import cli
from benchmarks.report import pages
from sae_gap.storage.folder import Folder

FLAGS = flags.FlagValues()
flags.DEFINE_string("results_dir", "results", "Where the folders of the studies are.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "The file to write.  [report.html in results_dir]", flag_values=FLAGS)


def collect(folder: str | os.PathLike[str] | Folder, place: str = "") -> list[pages.Entry]:
    """Reads the page of every study at and under a folder, by the names of their folders.

    Args:
      folder: of results.
      place: what the page calls it.

    Raises:
      ValueError: a page, or a figure that it shows, cannot be read.
    """
    folder = Folder(folder)
    found = [pages.read(folder, place)] if folder.exists(pages.FILE) else []
    # Rows and models are thousands of files without a page.
    for name in (name for name in folder.folders() if name not in ("rows", "models")):
        found += collect(folder / name, f"{place}/{name}".lstrip("/"))
    return found


def main() -> None:
    folder = cli.folder(FLAGS.results_dir)
    output = pathlib.Path(FLAGS.output) if FLAGS.output else None
    try:
        entries = collect(folder)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    if not entries:
        raise cli.UsageError(f"there are no results in {folder}; run a study first, or name its folder by --results_dir.")
    if output is not None and output.is_dir():
        raise cli.UsageError(f"--output must name a file, but {output} is a folder.")
    home, name = (folder, "report.html") if output is None else (Folder(output.parent), output.name)
    content = pages.render(entries).encode()
    home.write(name, content)
    count = f"{len(entries)} {'study' if len(entries) == 1 else 'studies'}"
    logging.info("%s in %s/%s, %.1f MB", count, home, name, len(content) / 1e6)


if __name__ == "__main__":
    cli.run(main, FLAGS)
