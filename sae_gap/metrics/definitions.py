"""How well rows are reconstructed, by the definition of each library.

The definitions differ, and so do their numbers for one SAE: DEFINITIONS.md beside this file has
the formulas and an example with all of them.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import as_matrix, check_varies, squares

# The libraries' names of each definition.
LIBRARIES = {
    "fvu": "sae_gap and sparsify fvu, SAELens explained_variance",
    "ev_saelens_legacy": "SAELens, SAEBench explained_variance_legacy",
    "ev_saebench": "SAEBench explained_variance",
    "ev_dictionary_learning": "dictionary_learning frac_variance_explained",
}


def spread(x: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """`‖x - x̄‖²` of each row: the FVU divides the sum of squared errors by that of these."""
    return squares(x - x.mean(axis=0, dtype=float))


def explained(
    x: Float[np.ndarray, "n input_dim"], guess: Float[np.ndarray, "n input_dim"]
) -> dict[str, float]:
    """How well rows are reconstructed, with all of them as one batch.

    Args:
      x: the rows, of mean x̄, not all equal.
      guess: their reconstructions x̂.

    Returns:
      `fvu`: `Σ‖x - x̂‖² / Σ‖x - x̄‖²`, as in sparsify; `1 - fvu` is the explained variance of
        SAELens 6.54.
      `ev_saelens_legacy`: the mean over rows of `1 - ‖x - x̂‖² / ‖x - x̄‖²`, in which rows near the
        mean weigh most; also SAEBench's, and its paper's.
      `ev_saebench`: `1 - E‖x - x̂‖² / (q - (q / d)²)` with `q = E‖x‖²` and d dimensions, as
        SAEBench 0.6.0 computes it; it changes with the scale of the rows.
      `ev_dictionary_learning`: `1 - Var(x - x̂) / Var(x)`, which forgives a constant error.
    """
    error = x - guess
    rest = squares(error)
    centred = spread(x)
    power = squares(x).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        legacy = 1 - rest / centred
    return {
        "fvu": float(rest.sum() / centred.sum()),
        "ev_saelens_legacy": float(legacy.mean()),
        "ev_saebench": float(1 - rest.mean() / (power - (power / x.shape[1]) ** 2)),
        "ev_dictionary_learning": float(1 - spread(error).sum() / centred.sum()),
    }


def fvu(
    activations: Float[ArrayLike, "n input_dim"],
    reconstruction: Float[ArrayLike, "n input_dim"],
) -> float:
    """The fraction of variance unexplained, `Σ‖x - x̂‖² / Σ‖x - mean(x)‖²`.

    Args:
      activations: x, (n, input_dim).
      reconstruction: x̂, (n, input_dim), in the same units.

    Returns:
      0 for a perfect reconstruction, 1 for the mean of the rows; it has no upper bound.

    Raises:
      ValueError: the shapes differ, or the activations do not vary.
    """
    x = as_matrix("activations", activations).astype(float)
    approximation = as_matrix("reconstruction", reconstruction).astype(float)
    if x.shape != approximation.shape:
        raise ValueError(
            f"activations and reconstruction must have one shape, but have {x.shape} and "
            f"{approximation.shape}."
        )
    check_varies(x)
    return explained(x, approximation)["fvu"]
