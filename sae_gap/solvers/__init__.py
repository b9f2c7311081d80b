"""Sparse coding: solvers of the lasso behind `sparse_code`, and greedy pursuits."""

from sae_gap.solvers.coding import SOLVERS, sparse_code
from sae_gap.solvers.greedy import orthogonal_matching_pursuit, pursuit_order
from sae_gap.solvers.path import match_l0

__all__ = [
    "SOLVERS",
    "match_l0",
    "orthogonal_matching_pursuit",
    "pursuit_order",
    "sparse_code",
]
