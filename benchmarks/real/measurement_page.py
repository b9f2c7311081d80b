"""What a measurement of one's own SAE leaves: summary.csv, figures, its page, and the same page as one self-contained file."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import pages
from sae_gap import figures, measure
from sae_gap.figures import tables
from sae_gap.storage import results
from sae_gap.storage.folder import Folder

ABOUT = """
The encoder's codes are held against the best codes on the very same dictionary, which a duality gap certifies, and the
dictionary against cheap ones of the same width. All figures are of the same rows, of documents that controls did not learn
from. Intervals are of 95 %, over documents drawn again.

FVU is the squared error over the squared distance of the activations from their mean, both summed over samples and dimensions
in the activations' own units: 0 is perfect, 1 is the mean alone. The explained share is 1 - FVU. At an equal number of latents
the lasso itself reconstructs worse than an encoder that keeps its values, since the l1 norm shrinks them; least squares on the
lasso's supports is what an encoder should be held against. In the tables "curve" is the certified lasso at the same L0, and
"refit" is after least squares on the supports. A gap in the lasso's objective is split in what one scale of all codes
removes, what better values on the encoder's own support remove, and what another support does.

A better reconstruction is not better features: nothing here says what a latent means.
"""
# The columns of each table, by the names that they have in summary.csv.
RANKING = "dictionary at_l0 percent_explained own_l0 encoder_loses over_online_dl"
CURVE = "dictionary l0 fvu refit_fvu at_l0 curve_fvu curve_refit_fvu refit_fvu_ratio certificate"
GAP = "dictionary lam l0 optimum_l0 relative_gap scale scale_share values_share support_share optimum_slack"
SUPPORT = "dictionary jaccard precision recall fired_only used_only unused"
ATOMS = "dictionary num_latents dead duplicates coherence_median coherence_95 agreement"
WORST = "dictionary index document gap relative_gap"
LOADED = "dictionary library architecture normalisation fvu l0 dead"


def write(folder: Folder, rows: Sequence[results.Row], command: str, notes: Mapping[str, str]) -> str:
    """Writes all files of a measurement but its rows, in place of those of an earlier one.

    Args:
      folder: where to.
      rows: of the measurement.
      command: what was run.
      notes: what a reader should know of the run.

    Returns:
      What looks wrong, the tables and, last, the verdict, to print.
    """
    for name in folder.names():
        if name.endswith((".png", ".pdf")):
            folder.remove(name)
    curves, gaps, atoms = measure.curve_lines(rows), measure.gap_lines(rows), measure.atom_lines(rows)
    loaded, encoded = [row for row in rows if row["kind"] == "load"], [line for line in gaps if "gap" in line]
    tables.write_table(folder, "summary.csv", _joined(curves, gaps, atoms))
    pictures = {"curve": figures.fvu_curve(rows), "gap_parts": figures.gap_parts(gaps), "coherence": figures.coherence(rows)}
    made = {stem: figure for stem, figure in pictures.items() if figure is not None}
    drawn = [pages.Figure(figures.save(figure, folder, stem)[0], figure.get_label()) for stem, figure in made.items()]
    shown = [
        table("Reconstruction", CURVE, curves),
        table("The gap and its parts, as shares of the best objective", GAP, encoded),
        table("Supports: the encoder's beside the best", SUPPORT, encoded),
        table("Atoms", ATOMS, atoms),
        table("Samples of the largest gaps", WORST, measure.worst_lines(rows)),
    ]
    shown = [table for table in shown if table.lines]
    ranked, lists, sentence = _verdict(rows)
    doubts = [f"{row['dictionary']}: {doubt}" for row in loaded for doubt in row["suspicions"]]
    wrong = f"What looks wrong:\n\n{_listed(doubts)}" if doubts else ""
    told = [wrong, *map(_printed, shown), *lists, *map(_printed, ranked), sentence]
    shown += [table("As loaded", LOADED, loaded)] if loaded else []
    page = pages.Page(
        measure.STUDY,
        "Your own SAE: is it the loading, the encoder or the dictionary?",
        ABOUT.strip(),
        command,
        "\n\n".join(filter(None, [wrong, sentence, *lists])),
        drawn,
        shown,
        dict(notes) | pages.provenance(rows[-1]),
        ranked,
    )
    pages.write(folder, page)
    return "\n\n".join(filter(None, told))


def _verdict(rows: Sequence[results.Row]) -> tuple[list[pages.Table], list[str], str]:
    """What the measurement says: a table of several SAEs, a list of what is said of each, and a sentence that sums it up."""
    verdicts = measure.verdict(rows)
    if len(verdicts) == 1:
        return [], [_listed(str(verdicts[0]).splitlines())], ""
    ordered, sentence = measure.ranking(rows)
    lines: list[results.Row] = []
    for one in ordered:
        line: results.Row = {"dictionary": one.dictionary, "at_l0": one.reached_l0[0], "percent_explained": 100 * one.explained}
        line["own_l0"] = one.own_l0
        line |= {
            name: _points(found)
            for name, found in {"encoder_loses": one.encoder if one.judged else None, "over_online_dl": one.learned}.items()
        }
        lines.append(line)
    title = f"Dictionaries by what their best codes explain at L0 {ordered[0].common_l0:.1f}; differences in points of 100"
    lists = [f"{one.dictionary}:\n\n{_listed(str(one).splitlines())}" for one in ordered]
    return [table(title, RANKING, lines)], lists, sentence


def _points(found: measure.Comparison | None) -> str | None:
    """A difference in points, with its interval."""
    return None if found is None else f"{100 * found.more:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _printed(table: pages.Table) -> str:
    return f"{table.title}\n{tables.format_table(table.lines, table.columns)}"


# Words of the names of columns as headings have them.
_TERMS = {"l0": "L0", "fvu": "FVU", "lam": "λ", "kl": "KL", "ce": "CE", "auc": "AUC", "ood": "OOD", "level": "asked L0"}


def table(title: str, names: str, lines: Sequence[Mapping[str, Any]]) -> pages.Table:
    """Numbers that are not counts get their decimals by `_mean`, as means over seeds do."""
    kept = [name for name in names.split() if any(line.get(name) is not None for line in lines)]
    headings = {name: " ".join(_TERMS.get(word, word) for word in name.split("_")).replace("delta CE", "ΔCE") for name in kept}
    real = {name for name in kept if any(isinstance(line.get(name), float) for line in lines)}
    return pages.Table(
        title, headings, [{f"{name}_mean" if name in real else name: line.get(name) for name in kept} for line in lines]
    )


def _joined(*tables_of_lines: Sequence[results.Row]) -> list[results.Row]:
    """One line for each dictionary, with the columns of all."""
    found: dict[str, results.Row] = {}
    for line in itertools.chain(*tables_of_lines):
        found.setdefault(line["dictionary"], {}).update(line)
    columns = dict.fromkeys(name for line in found.values() for name in line)
    return [{name: line.get(name) for name in columns} for line in found.values()]
