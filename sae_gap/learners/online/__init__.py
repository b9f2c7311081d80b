"""Learns dictionaries from minibatches of a pool or a stream, and refines such dictionaries."""

from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.online.pruned import Pruned

__all__ = ["Families", "OnlineDictionary", "Pruned"]
