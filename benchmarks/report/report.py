"""One page of all results: a self-contained HTML file with every study found under a folder, to
read in a browser or to send.

    python -m sae_gap report --results_dir=results

Each folder with a page.json is a section: what was found and asked, figures, tables, the agreement
with the published numbers, the command, and what the rows were made by. The file needs no network
and no script, and shows what the folders hold, so the same folders give the same bytes.
"""

import dataclasses
import pathlib

from absl import logging

from benchmarks import cli
from benchmarks.options import Options, option
from benchmarks.report import pages
from sae_gap.storage.folder import Folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """What to read, and where to write."""

    results_dir: str = option("results", "Where the folders of the studies are.")
    output: str | None = option(None, "The file to write.  [report.html in results_dir]")


def main(options: ReportOptions) -> None:
    results = cli.folder(options.results_dir)
    output = pathlib.Path(options.output) if options.output else None
    with cli.usage():
        entries = [
            pages.read(folder, place)
            for place, folder in pages.folders(results)
            if folder.exists(pages.FILE)
        ]
    if not entries:
        raise cli.UsageError(
            f"there are no results in {results}; run a study first, or name its folder by "
            "--results_dir."
        )
    if output is not None and output.is_dir():
        raise cli.UsageError(f"--output must name a file, but {output} is a folder.")
    home, name = (
        (results, "report.html") if output is None else (Folder(output.parent), output.name)
    )
    content = pages.render(entries).encode()
    home.write(name, content)
    logging.info("%d pages in %s/%s, %.1f MB", len(entries), home, name, len(content) / 1e6)


if __name__ == "__main__":
    cli.run(main)
