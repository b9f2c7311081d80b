"""Figures from rows alone: where recovery is lost, how well dictionaries match, and how both change
along a study.

Columns of a row (`dictionary`, `inference`, `start`, …) name its method; `labels` gives names and
colours. A figure whose rows lack its numbers (a method that was not run, an unknown truth) is None,
so that a run on a user's own data draws what it can. A title says what is drawn, and the label of a
figure, its caption, over what; readers see for themselves what it shows. Nothing here needs JAX or
a display.

The names are loaded when first used, as importing matplotlib takes longer than reading tables,
which do without it.
"""

import importlib
from typing import Any

_NAMES = {
    "cosines": "matched_cosines",
    "cost": "budget loss_by_cost recovery_by_seconds",
    "curves": "curve recovery_by_level",
    "heat": "counting_bound heat_map recovery_by_samples",
    "probing": "features_and_nats ood_drop",
    "parts": "encoder_shares gap_parts loss_parts",
    "sae_measurement": "coherence fvu_curve",
    "scatter": "recovery",
    "style": "save",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sae_gap.figures' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sae_gap.figures.{_HOME[name]}"), name)
