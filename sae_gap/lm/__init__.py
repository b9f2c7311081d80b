"""Language models: records their activations, and puts reconstructions back into them."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
