"""Solvers of the lasso, one a file, behind `sparse_code`."""

from sae_gap.solvers.coding import SOLVERS, sparse_code

__all__ = ["SOLVERS", "sparse_code"]
