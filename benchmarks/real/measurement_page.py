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
encoder should be held against. A gap in the lasso's objective is split in what one scale of all codes removes, what better
values on the encoder's own support remove, and what another support does.

A better reconstruction is not better features: nothing here says what a latent means.
"""
RECONSTRUCTION = {
    "dictionary": "dictionary",
    "l0": "L0",
    "fvu": "FVU, encoder",
    "refit_fvu": "FVU, encoder refitted",
    "at_l0": "at L0",
    "front_fvu": "FVU, lasso",
    "front_refit_fvu": "FVU, lasso refitted",
    "fvu_ratio": "FVU / front",
    "l0_ratio": "L0 / front",
    "refit_fvu_ratio": "refitted FVU / front",
    "certificate": "certificate",
}
GAP = {
    "dictionary": "encoder",
    "samples": "samples",
    "lam": "λ",
    "l0": "L0",
    "optimum_l0": "L0 of the best",
    "relative_gap": "relative gap",
    "scale": "best scale",
    "scale_share": "scale part",
    "values_share": "values part",
    "support_share": "support part",
    "support_slack": "slack on the support",
    "optimum_slack": "slack of the best",
}
SUPPORT = {
    "dictionary": "encoder",
    "jaccard": "Jaccard",
    "precision": "precision",
    "recall": "recall",
    "fired_only": "fired, never best",
    "used_only": "best, never fired",
    "unused": "neither",
}
ATOMS = {
    "dictionary": "dictionary",
    "num_latents": "atoms",
    "dead": "zero",
    "duplicates": "nearly twice",
    "coherence_median": "coherence, median",
    "coherence_95": "95 %",
    "agreement": "agreement with the first",
}
WORST = {"dictionary": "encoder", "index": "sample", "document": "document", "gap": "gap", "relative_gap": "relative gap"}
LOADED = {
    "dictionary": "SAE",
    "library": "library",
    "architecture": "architecture",
    "normalisation": "normalisation",
    "fvu": "FVU",
    "l0": "L0",
    "dead": "dead latents",
}


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
    drawn = []
    pictures = {"front": figures.front(rows), "gap_parts": figures.gap_parts(gaps), "coherence": figures.coherence(rows)}
    for stem, figure in pictures.items():
        if figure is not None:
            drawn.append(pages.Figure(figures.save(figure, folder, stem)[0], figure.get_label()))
    named = {
        "Reconstruction on held-out activations": (RECONSTRUCTION, fronts),
        "The gap and its parts, as shares of the best objective": (GAP, encoded),
        "Supports: the encoder's beside the best": (SUPPORT, encoded),
        "Atoms": (ATOMS, atoms),
        "Samples of the largest gaps": (WORST, measure.worst_lines(rows)),
        "As loaded": (LOADED, loaded),
    }
    shown = [_table(title, columns, lines) for title, (columns, lines) in named.items() if lines]
    finding = ". ".join(pages.first_sentence(figure.caption).rstrip(".").partition(": ")[0] for figure in drawn[:2]) + "."
    doubts = {f"{row['dictionary']}: {number}": text for row in loaded for number, text in enumerate(row["suspicions"], 1)}
    told = dict(notes) | pages.provenance(rows[-1]) | doubts
    pages.write(folder, pages.Page(measure.STUDY, "Your own SAE", ABOUT.strip(), command, finding, drawn, shown, told))
    printed = [table for table in shown if table.title != "As loaded"]
    return "\n\n".join(f"{table.title}\n{tables.format_table(table.lines, table.columns)}" for table in printed)


def _table(title: str, columns: Mapping[str, str], lines: Sequence[Mapping[str, Any]]) -> pages.Table:
    """Numbers that are not counts get their decimals by `_mean`, as means over seeds do."""
    kept = {name: heading for name, heading in columns.items() if any(line.get(name) is not None for line in lines)}
    real = {name for name in kept if any(isinstance(line.get(name), float) for line in lines)}
    return pages.Table(
        title, kept, [{f"{name}_mean" if name in real else name: line.get(name) for name in kept} for line in lines]
    )


def _joined(*tables_of_lines: Sequence[results.Row]) -> list[results.Row]:
    """One line for each dictionary, with the columns of all."""
    found: dict[str, results.Row] = {}
    for line in itertools.chain(*tables_of_lines):
        found.setdefault(line["dictionary"], {}).update(line)
    columns = dict.fromkeys(name for line in found.values() for name in line)
    return [{name: line.get(name) for name in columns} for line in found.values()]
