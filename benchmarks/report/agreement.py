"""How much of the paper is reproduced: a table, in Markdown, of the published numbers that each
study's run lands on.

Reads every published.csv under <results_dir>, which runs of the studies with --protocol=paper and
the paper's seeds and lengths leave there, and prints the table.

  python -m sae_gap agreement --results_dir=results
"""

from benchmarks import cli
from benchmarks.options import Results
from benchmarks.report import pages, published
from sae_gap.figures.tables import Lines
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Row

_FILE = "published.csv"


def line(study: str, comparison: Lines) -> str:
    """A study's line: how many of its numbers are close, and the furthest one."""
    close, count = sum(row["close"] for row in comparison), len(comparison)
    furthest = _describe(max(comparison, key=published.distance))
    return f"| {study} | {count:,} | {close:,} | {close / count:.1%} | {furthest} |"


def _describe(row: Row) -> str:
    """The place of a comparison, our number and the published one."""
    varied = [
        f"{name} {row[name]:,}"
        for name in ("num_samples", "lam", "iterations", "step")
        if row.get(name) is not None
    ]
    place = ", ".join(
        [f"{row['method']} at {row['num_latents']:,} latents", *varied, row["metric"]]
    )
    form = ".3g" if row["relative"] else ".3f"
    spread = "" if row["published_sd"] is None else f" ± {row['published_sd']:{form}}"
    return f"{place}: {row['ours']:{form}}, published {row['published']:{form}}{spread}"


def main(options: Results) -> None:
    results = Folder(options.results_dir)
    compared = [(place, folder) for place, folder in pages.folders(results) if folder.exists(_FILE)]
    if not compared:
        raise ValueError(
            f"no study under {results} was held against the paper; run one with --protocol=paper."
        )
    table = [
        "| study | compared | close | share | furthest (ours, published) |",
        "|---|---:|---:|---:|---|",
    ]
    for place, folder in compared:
        try:
            table.append(line(place, published.read(folder.read(_FILE).decode())))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{folder}/{_FILE} is not a comparison with the published numbers; run its study "
                "again."
            ) from None
    print(*table, sep="\n")


if __name__ == "__main__":
    cli.run(main)
