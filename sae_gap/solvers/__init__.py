"""Sparse coding: solvers of the lasso behind `sparse_code`, and greedy pursuits."""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
