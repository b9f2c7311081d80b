"""Probes out of distribution: training never sees the rows in which two concepts meet.

A probe learns concept A without any row that has both A and B, and is scored on rows that all have
B. The reference is the same probe trained on as many rows with that cell among them, and scored on
the same rows.
"""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
