"""Reads sparse autoencoders that other libraries published, and writes theirs, without these
libraries.
"""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
