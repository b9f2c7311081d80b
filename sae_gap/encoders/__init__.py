"""Pure functions from a model and a batch of signals to codes, one family a file."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
