"""Is an SAE broken, or was it loaded wrongly?"""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
