"""Measures one's own SAE: what its encoder costs, and how its dictionary compares with others.

A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is not
proved, since least squares on the lasso's supports and matching pursuit carry no certificate.

A better reconstruction is not better features: everything here is about how well few latents
explain activations, and nothing about what the latents mean.

The names are loaded when first used: rows are read without JAX.
"""

import importlib
from typing import Any

_HOME = {
    "sae_gap.metrics.definitions": "fvu",
    "sae_gap.core.rows": "evenly_spaced",
    "sae_gap.data.held_out": "HeldOut",
    "sae_gap.measure.plan": "CONTROLS STUDY Plan run",
    "sae_gap.analysis.summarise": "atom_lines curve_lines gap_lines worst_lines",
    "sae_gap.analysis.verdicts": "ranking standings verdict",
}


def __getattr__(name: str) -> Any:
    for home, names in _HOME.items():
        if name in names.split():
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'sae_gap.measure' has no attribute {name!r}")
