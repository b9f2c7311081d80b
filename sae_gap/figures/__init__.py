"""Figures from rows alone: where recovery is lost, how well dictionaries match, and what becomes of
both along a study.

Rows say what they are of in their columns (`dictionary`, `inference`, `start`, …); `labels` says
how that is called and coloured. A figure whose rows lack what it shows (a method that was not run,
a truth that is not known) is None, so that a run on a user's own data draws what it can. A title
says what is drawn, and the label of a figure, its caption, over what; what a figure shows is for
its reader to say. Nothing here needs JAX or a display.

The names are loaded when first used: tables need no matplotlib, whose import takes longer than
reading them.
"""

import importlib
from typing import Any

_HOME = {
    "budget": "cost",
    "captured_by_block": "blocks",
    "coherence": "sae_measurement",
    "counting_bound": "heat",
    "curve": "curves",
    "decomposition": "stairs",
    "fvu_curve": "sae_measurement",
    "gap_by_seconds": "seconds",
    "gap_parts": "sae_measurement",
    "heat_map": "heat",
    "loss_by_cost": "cost",
    "matched_cosines": "cosines",
    "ood_drop": "probing",
    "recovery": "scatter",
    "recovery_by_level": "levels",
    "recovery_by_samples": "heat",
    "recovery_by_seconds": "seconds",
    "save": "style",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sae_gap.figures' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sae_gap.figures.{_HOME[name]}"), name)
