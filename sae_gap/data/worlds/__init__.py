"""Worlds as hard as real ones: features with frequencies, correlations and hierarchy, after
SynthSAEBench.
"""

from sae_gap.data import World, WorldStream, published_world

__all__ = ["World", "WorldStream", "published_world"]
