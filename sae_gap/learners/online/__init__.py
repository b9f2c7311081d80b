"""Learns dictionaries from minibatches of a pool or a stream, and refines such dictionaries."""

from sae_gap.learners import Families, OnlineDictionary, Pruned

__all__ = ["Families", "OnlineDictionary", "Pruned"]
