"""Scores of a method, each tested against an independent implementation, one family a file."""

from sae_gap.metrics import classification, dictionary, gap, recovery, support

# All metrics, which a study takes unless it names its own.
METRICS = (recovery.measure, dictionary.measure, support.measure, classification.measure, gap.measure)

__all__ = ["METRICS"]
