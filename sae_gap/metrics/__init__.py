"""Scores of a method, each tested against an independent implementation, one topic a file."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
