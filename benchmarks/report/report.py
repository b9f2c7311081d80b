"""One page of all results: a self-contained HTML file with every study found under a folder, to
read in a browser or to send.

    python -m sae_gap report --results_dir=results

Each folder with a page.json is a section: what was found and asked, figures, tables, the agreement
with the published numbers, the command, and what the rows were made by. The file needs no network
and shows what the folders hold, so the same folders give the same bytes.
"""

from absl import logging

from benchmarks import cli
from benchmarks.options import Results
from benchmarks.report import pages
from sae_gap.storage.folder import Folder


def main(options: Results) -> None:
    home = Folder(options.results_dir)
    entries = [
        pages.read(folder, place)
        for place, folder in pages.folders(home)
        if folder.exists(pages.FILE)
    ]
    if not entries:
        raise ValueError(
            f"there are no results in {home}; run a study first, or name its folder by "
            "--results_dir."
        )
    content = pages.render(entries).encode()
    home.write("report.html", content)
    logging.info("%d pages in %s/report.html, %.1f MB", len(entries), home, len(content) / 1e6)


if __name__ == "__main__":
    cli.run(main)
