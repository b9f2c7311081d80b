"""Codes of signals, with certificates where a solver found them."""

from equinox import Module
from jaxtyping import Array, Bool, Float, Int


class Coded(Module):
    """Codes of n signals from any method; those of very many latents or samples are a sparse
    array.
    """

    codes: Float[Array, "n num_latents"]


class Solution(Coded):
    """Codes of n signals with their certificates.

    Attributes:
      codes: the minimisers.
      objective: the value of the lasso objective at `codes`.
      gap: a duality gap: `objective - gap` is a lower bound on the optimum.
      iterations: iterations spent on the sample.
      converged: whether the gap is at most `tol` times the objective.
    """

    objective: Float[Array, " n"]
    gap: Float[Array, " n"]
    iterations: Int[Array, " n"]
    converged: Bool[Array, " n"]
