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
Is it the encoder or the dictionary? The encoder's codes are held against the best codes on the very same dictionary, which a
duality gap certifies, and the dictionary against cheap ones of the same width.

FVU is the squared error over the squared distance of the activations from their mean, both summed over samples and dimensions
in the activations' own units: 0 is perfect, 1 is the mean alone. At an equal number of latents the lasso itself reconstructs
worse than an encoder that keeps its values, since the l1 norm shrinks them; least squares on the lasso's supports is what an
encoder should be held against. The columns are those of summary.csv: "front" is the certified lasso at the same L0, "refit" is
after least squares on the supports, and the ratios are to the front of least squares. A gap in the lasso's objective is split
in what one scale of all codes removes, what better values on the encoder's own support remove, and what another support does.

A better reconstruction is not better features: nothing here says what a latent means.
"""
# The columns of each table, by the names that they have in summary.csv.
FRONT = "dictionary l0 fvu refit_fvu at_l0 front_fvu front_refit_fvu fvu_ratio l0_ratio refit_fvu_ratio certificate"
GAP = (
    "dictionary samples lam l0 optimum_l0 relative_gap scale scale_share values_share support_share support_slack optimum_slack"
)
SUPPORT = "dictionary jaccard precision recall fired_only used_only unused"
ATOMS = "dictionary num_latents dead duplicates coherence_median coherence_95 agreement"
WORST = "dictionary index document gap relative_gap"
LOADED = "dictionary library architecture normalisation fvu l0 dead"


def write(folder: Folder, rows: Sequence[results.Row], command: str, notes: Mapping[str, str]) -> str:
    """Writes all files of a measurement but its rows, in place of those of an earlier one.

    Args:
      folder: where to.
      rows: of the measurement, and those of kind "load".
      command: what was run.
      notes: what a reader should know of the run.

    Returns:
      The tables, to print.
    """
    for name in folder.names():
        if name.endswith((".png", ".pdf")):
            folder.remove(name)
    fronts, gaps, atoms = measure.front_lines(rows), measure.gap_lines(rows), measure.atom_lines(rows)
    loaded, encoded = [row for row in rows if row["kind"] == "load"], [line for line in gaps if "gap" in line]
    # Fronts and gaps both measure these, of held-out samples and of all.
    shared = {name for line in fronts for name in line} - {"dictionary"}
    renamed = [{f"gap_{name}" if name in shared else name: value for name, value in line.items()} for line in gaps]
    tables.write_table(folder, "summary.csv", _joined(fronts, renamed, atoms))
    pictures = {"front": figures.front(rows), "gap_parts": figures.gap_parts(gaps), "coherence": figures.coherence(rows)}
    made = {stem: figure for stem, figure in pictures.items() if figure is not None}
    drawn = [pages.Figure(figures.save(figure, folder, stem)[0], figure.get_label()) for stem, figure in made.items()]
    shown = [
        _table("Reconstruction on held-out activations", FRONT, fronts),
        _table("The gap and its parts, as shares of the best objective", GAP, encoded),
        _table("Supports: the encoder's beside the best", SUPPORT, encoded),
        _table("Atoms", ATOMS, atoms),
        _table("Samples of the largest gaps", WORST, measure.worst_lines(rows)),
    ]
    shown = [table for table in shown if table.lines]
    told = "\n\n".join(f"{table.title}\n{tables.format_table(table.lines, table.columns)}" for table in shown)
    if loaded:
        shown.append(_table("As loaded", LOADED, loaded))
    finding = ". ".join(pages.first_sentence(figure.caption).rstrip(".").partition(": ")[0] for figure in drawn[:2]) + "."
    doubts = {f"{row['dictionary']}: {number}": text for row in loaded for number, text in enumerate(row["suspicions"], 1)}
    notes = dict(notes) | pages.provenance(rows[-1]) | doubts
    pages.write(folder, pages.Page(measure.STUDY, "Your own SAE", ABOUT.strip(), command, finding, drawn, shown, notes))
    return told


def _table(title: str, names: str, lines: Sequence[Mapping[str, Any]]) -> pages.Table:
    """Numbers that are not counts get their decimals by `_mean`, as means over seeds do."""
    kept = [name for name in names.split() if any(line.get(name) is not None for line in lines)]
    headings = {name: name.replace("_", " ").replace("l0", "L0").replace("fvu", "FVU").replace("lam", "λ") for name in kept}
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
