"""The common parts of studies: presets, methods, figures and the command line."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
