"""The nouns and the mathematics that everything else is built on."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
