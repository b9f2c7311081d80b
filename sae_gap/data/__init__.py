"""The sources of samples: the paper's model, worlds with hierarchy, and a user's activations."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
