"""Probes out of distribution: training never sees the rows in which two concepts meet.

A probe learns concept A without any row that has both A and B, and is scored on rows that all have
B. The reference is the same probe trained on as many rows with that cell among them, and scored on
the same rows.
"""

from sae_gap.probing.concepts import (
    Labelled,
    Split,
    Tokens,
    choose_rows,
    concept,
    read_pair,
    split_cells,
)
from sae_gap.probing.probed import Probed
from sae_gap.probing.summary import overall
