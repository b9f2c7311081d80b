"""Scores of a method, each tested against an independent implementation, one family a file."""

from sae_gap.metrics import classification, dictionary, gap, recovery, support

METRICS = (recovery.measure, dictionary.measure, support.measure, classification.measure, gap.measure)

__all__ = ["METRICS"]
