"""Studies: their jobs, fits, codes and scores, and the one runner of them."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
