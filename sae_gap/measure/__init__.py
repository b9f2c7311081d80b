"""Measures one's own SAE: what its encoder costs, and how its dictionary compares with others.

A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is not
proved, since least squares on the lasso's supports and matching pursuit carry no certificate.

A better reconstruction is not better features: everything here is about how well few latents
explain activations, and nothing about what the latents mean.

The names are loaded when first used: rows are read without JAX.
"""

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
