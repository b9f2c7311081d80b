"""One page of all results: a self-contained HTML file with every study found under a folder, to
read in a browser or to send.

    python -m sae_gap report --results_dir=results

Each folder with a page.json is a section: what was found and asked, figures, tables, the agreement
with the published numbers, the command, and what the rows were made by. The file needs no network
and shows what the folders hold, so the same folders give the same bytes.

It also prints a table, in Markdown, of how many of the paper's numbers each run lands on with
--protocol=paper and the paper's seeds and lengths.
"""

from absl import logging

from benchmarks import cli
from benchmarks.options import Results
from benchmarks.report import pages
from sae_gap.analysis import published
from sae_gap.storage import Folder

_COMPARED = "published.csv"
_HEAD = """| study | compared | close | share | furthest (ours, published) |
|---|---:|---:|---:|---|"""


def main(options: Results) -> None:
    home = Folder(options.results_dir)
    there = [
        (place, folder)
        for place, folder in pages.folders(home)
        if folder.exists(pages.FILE)
    ]
    if not there:
        raise ValueError(
            f"there are no results in {home}; run a study first, or name its folder by "
            "--results_dir."
        )
    content = pages.render(
        [pages.read(folder, place) for place, folder in there]
    ).encode()
    home.write("report.html", content)
    logging.info(
        "%d pages in %s/report.html, %.1f MB", len(there), home, len(content) / 1e6
    )
    lines = [
        published.agreement(place, published.read(folder.read(_COMPARED).decode()))
        for place, folder in there
        if folder.exists(_COMPARED)
    ]
    if lines:
        print(_HEAD, *lines, sep="\n")


if __name__ == "__main__":
    cli.run(main)
