"""Devices and processes."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
