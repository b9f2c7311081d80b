# The names that files import from here, and where each is defined.

from sae_gap.solvers.coding import sparse_code as sparse_code
from sae_gap.solvers.greedy import gradient_pursuit as gradient_pursuit
from sae_gap.solvers.greedy import matching_pursuit as matching_pursuit
from sae_gap.solvers.greedy import (
    orthogonal_matching_pursuit as orthogonal_matching_pursuit,
)
from sae_gap.solvers.greedy import spread as spread
from sae_gap.solvers.host import wants_gram as wants_gram
from sae_gap.solvers.path import match_l0 as match_l0
from sae_gap.solvers.problem import check_problem as check_problem
from sae_gap.solvers.problem import lengths as lengths
from sae_gap.solvers.problem import on_host as on_host
from sae_gap.solvers.problem import power_of_two as power_of_two
from sae_gap.solvers.reweighted import SlotCodes as SlotCodes
from sae_gap.solvers.reweighted import atom_rows as atom_rows
from sae_gap.solvers.reweighted import default_slots as default_slots
from sae_gap.solvers.reweighted import num_blocks as num_blocks
from sae_gap.solvers.reweighted import reweighted_lasso as reweighted_lasso
from sae_gap.solvers.screened import backward_elimination as backward_elimination
