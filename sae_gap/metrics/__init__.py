"""Scores of a method, each tested against an independent implementation, one topic a file."""

from sae_gap.core import registry

# What a study measures unless it names its own.
METRICS = tuple(metric for metric in registry.metrics().values() if metric.everywhere)

__all__ = ["METRICS"]
