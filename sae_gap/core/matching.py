"""Matches learned with true atoms: cosines, correlations and the best pairs.

Recovery is only defined up to the order, the sign and the scale of the atoms. The code that the
metrics share to undo those three is here, in NumPy on the host: each cell of a study compares other
sets of columns, and jit would compile for each.
"""

from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpy import (
    arange,
    array_equal,
    asarray,
    concatenate,
    count_nonzero,
    einsum,
    empty,
    float32,
    float64,
    full,
    isfinite,
    sqrt,
    where,
    zeros,
)
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from sae_gap.core import as_real, slices

# Columns with a smaller share of non-zeros are stored sparse, so many at once.
_SPARSE = 0.05
_COLUMNS_AT_ONCE = 512
# Number of cosines that are held at once.
_COSINES_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Match:
    """For each true atom, the learned atom assigned to it.

    Attributes:
      learned: index of the learned atom, -1 where the learned dictionary is the narrower one and
        has none left.
      cosine: signed cosine of the pair, 0 where there is none.
    """

    learned: Int[np.ndarray, " true"]
    cosine: Float[np.ndarray, " true"]


def match_atoms(
    learned: Float[ArrayLike, "input_dim learned"],
    truth: Float[ArrayLike, "input_dim true"],
) -> Match:
    """Pairs learned with true atoms by Hungarian assignment,
    `max_π Σ_j |cos(learned_π(j), truth_j)|`.

    At 10,000 by 10,000 that takes a minute and 2 GB.

    Args:
      learned: learned dictionary, (input_dim, num_learned), atoms of any norm; a zero atom has
        cosine 0 with everything.
      truth: true dictionary, (input_dim, num_true). The widths may differ.

    Returns:
      The partner of each true atom and their signed cosine, in float64.

    Raises:
      ValueError: an argument is not a finite, non-empty matrix, or their input dimensions differ.
    """
    learned = as_matrix("learned", learned)
    truth = as_matrix("truth", truth)
    if learned.shape[0] != truth.shape[0]:
        raise ValueError(
            f"learned and true atoms must have one input_dim, but they have {learned.shape[0]} and "
            f"{truth.shape[0]}; atoms are columns, so a dictionary may need transposing."
        )
    if learned.shape == truth.shape and array_equal(learned, truth):
        # A million atoms have too many cosines to store, and no assignment beats this one.
        return Match(arange(truth.shape[1]), np.any(truth != 0, axis=0).astype(float64))
    atoms = unit_columns(learned)
    rows, columns = linear_sum_assignment(
        np.abs(unit_columns(truth).T @ atoms), maximize=True
    )
    partner = full(truth.shape[1], -1)
    partner[rows] = columns
    cosine = zeros(truth.shape[1])
    # float32 loses the angle of a nearly perfect atom: its arccos cannot tell 0 from 3e-4.
    pairs = unit_columns(learned[:, columns].astype(float64)) * unit_columns(
        truth[:, rows].astype(float64)
    )
    cosine[rows] = np.clip(pairs.sum(axis=0), -1.0, 1.0)
    return Match(partner, cosine)


def nearest_atoms(
    learned: Float[ArrayLike, "input_dim learned"],
    truth: Float[ArrayLike, "input_dim true"],
) -> Int[np.ndarray, " learned"]:
    """Returns the feature that each latent is taken to detect, `argmax_i |cos(d_j, a_i)|`; several
    latents may share one.

    Args:
      learned: learned dictionary, (input_dim, num_learned).
      truth: true dictionary, (input_dim, num_true).

    Returns:
      An index of a true atom for each learned one.
    """
    atoms = unit_columns(asarray(learned)).T
    features = unit_columns(asarray(truth))
    parts = slices(len(atoms), max(1, _COSINES_AT_ONCE // features.shape[1]))
    return concatenate(
        [np.abs(atoms[part] @ features).argmax(axis=1) for part in parts]
    )


def correlations(
    left: Float[np.ndarray, "n left"], right: Float[np.ndarray, "n right"]
) -> Float[np.ndarray, "left right"]:
    """Returns |r|, Pearson's correlation of every column of `left` with every column of `right`.

    It takes one matrix product, in the wider of the two precisions.

    Args:
      left: (n, left), samples as rows; put the sparser side here, as only its non-zeros are
        multiplied.
      right: (n, right), the same samples.

    Returns:
      |r| in [0, 1], (left, right); 0 wherever a column is constant.
    """
    # Row-major, as a sparse product would otherwise copy it for every block.
    centred = np.ascontiguousarray(unit_columns(_centre(right)))
    thin = count_nonzero(left, axis=0) < _SPARSE * left.shape[0]
    scores = empty((left.shape[1], right.shape[1]), np.result_type(left, right))
    for part in slices(left.shape[1], _COLUMNS_AT_ONCE):
        block = left[:, part]
        found = scores[part]
        few = thin[part]
        found[few] = _sparse_weights(block[:, few]) @ centred
        if not few.all():
            found[~few] = unit_columns(_centre(block[:, ~few])).T @ centred
        np.minimum(np.abs(found, out=found), 1, out=found)
    return scores


def unit_columns(
    matrix: Float[np.ndarray, "rows columns"],
) -> Float[np.ndarray, "rows columns"]:
    """Scales columns to unit l2 norm; a zero column stays zero.

    Args:
      matrix: (rows, columns).

    Returns:
      `matrix` with each column over its norm, (rows, columns).
    """
    # Dividing by the largest entry first keeps the squares of small entries from underflowing.
    largest = np.abs(matrix).max(axis=0)
    scaled = matrix / where(largest > 0, largest, 1)
    norms = sqrt(einsum("ij,ij->j", scaled, scaled, dtype=float64))
    return scaled / where(norms > 0, norms, 1).astype(matrix.dtype)


def as_matrix(
    name: str, values: Float[ArrayLike, "..."]
) -> Float[np.ndarray, "rows columns"]:
    """Returns a finite, non-empty matrix on the host, in float32 or float64.

    Args:
      name: what the message calls the values.
      values: an array of two dimensions.

    Returns:
      The values, copied only if necessary.

    Raises:
      ValueError: the values are not a finite, non-empty matrix.
    """
    matrix = as_real(name, values, "a matrix of real numbers")
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(
            f"{name} must be a non-empty matrix, but its shape is {matrix.shape}."
        )
    if matrix.dtype not in (float32, float64):
        matrix = matrix.astype(float32)
    if not isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, but it has NaN or infinite entries.")
    return matrix


def _centre(columns: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, "n columns"]:
    """Subtracts the mean of each column. A constant column becomes exactly zero, which rounding of
    the mean would otherwise prevent.
    """
    centred = columns - columns.mean(axis=0, dtype=float64).astype(columns.dtype)
    centred[:, columns.min(axis=0) == columns.max(axis=0)] = 0
    return centred


def _sparse_weights(columns: Float[np.ndarray, "n columns"]) -> csr_array:
    """Returns sparse columns, transposed, over the norms of the centred columns.

    A centred column sums to zero, so the other factor's mean adds nothing to the product: only one
    of the two needs to be centred.
    """
    scaled = columns / where(
        columns.any(axis=0), np.abs(columns).max(axis=0, initial=0), 1
    )
    total = scaled.sum(axis=0, dtype=float64)
    square = einsum("ij,ij->j", scaled, scaled, dtype=float64) - total**2 / len(scaled)
    return csr_array(
        (scaled / sqrt(where(square > 0, square, 1)).astype(scaled.dtype)).T
    )
