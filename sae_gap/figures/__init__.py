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

from sae_gap.core.faces import attach

__getattr__, __dir__ = attach(__name__)
