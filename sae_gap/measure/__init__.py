"""One's own SAE, measured: what its encoder costs, and what its dictionary is worth beside others.

A duality gap proves the optimum of the penalised objective, the lasso; a k-sparse optimum is not
proved, since least squares on the lasso's supports and matching pursuit carry no certificate.

A better reconstruction is not better features: everything here is about how well few latents
explain activations, and nothing about what the latents mean.
"""

from sae_gap.measure.atom_statistics import Atoms, agreement, describe_atoms
from sae_gap.measure.coding import evenly_spaced, find_weight
from sae_gap.measure.comparison import Comparison, compare
from sae_gap.measure.controls import CONTROLS, control, control_sae
from sae_gap.measure.curve import Curve, Point, check_varies, fvu, measure_curve
from sae_gap.measure.jobs import run
from sae_gap.measure.plan import STUDY, Plan
from sae_gap.measure.summary import atom_lines, curve_lines, gap_lines, worst_lines
from sae_gap.measure.verdict import Verdict, ranking, verdict
