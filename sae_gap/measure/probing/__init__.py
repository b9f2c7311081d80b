"""Probes out of distribution: the rows in which two concepts meet are withheld from training, and probed there.

A probe is trained for concept A without any row that has A and B, and scored on rows that all have B. What that costs is
measured against the same probe trained on as many rows with the cell among them, and scored on the same rows.
"""

from sae_gap.measure.probing.cells import CELLS, Split, choose_rows, split_cells
from sae_gap.measure.probing.concepts import Concept, Tokens, concept, read_pair
from sae_gap.measure.probing.probes import fit_dense, fit_sparse, score_pair
from sae_gap.measure.probing.summary import overall
from sae_gap.measure.probing.text_sets import TextSet, find_sets, read_set

__all__ = [
    "CELLS",
    "Concept",
    "Split",
    "TextSet",
    "Tokens",
    "choose_rows",
    "concept",
    "find_sets",
    "fit_dense",
    "fit_sparse",
    "overall",
    "read_pair",
    "read_set",
    "score_pair",
    "split_cells",
]
