"""Figures from rows alone: where recovery is lost, how well dictionaries match, and what becomes of both along a study.

Rows say what they are of in their columns (`dictionary`, `inference`, `start`, …); `labels` says how that is called and
coloured. A figure whose rows lack what it shows (a method that was not run, a truth that is not known) is None, so that a run
on a user's own data draws what it can. The label of a figure is its caption. Nothing here needs JAX or a display.
"""

from sae_gap.figures.cosines import matched_cosines
from sae_gap.figures.cost import budget
from sae_gap.figures.curves import curve
from sae_gap.figures.gap_by_seconds import gap_by_seconds
from sae_gap.figures.heat import counting_bound, heat_map, recovery_by_samples
from sae_gap.figures.levels import recovery_by_level
from sae_gap.figures.sae_measurement import coherence, front, gap_parts
from sae_gap.figures.scatter import recovery
from sae_gap.figures.seconds import recovery_by_seconds
from sae_gap.figures.stairs import decomposition
from sae_gap.figures.style import save

__all__ = [
    "budget",
    "coherence",
    "counting_bound",
    "curve",
    "decomposition",
    "front",
    "gap_by_seconds",
    "gap_parts",
    "heat_map",
    "matched_cosines",
    "recovery",
    "recovery_by_level",
    "recovery_by_samples",
    "recovery_by_seconds",
    "save",
]
