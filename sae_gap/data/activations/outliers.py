"""Outlier tokens: the few whose norm is far beyond that of all others.

Transformers give some tokens, such as the first of a text, a norm of hundreds of times what is usual. Squared, one of them
outweighs ten thousand others, and so it sets the variance and the atoms that are learned.

References:
  Sun et al. (2024), "Outliers activations in large language models".
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from sae_gap.data.activations.rows import Activations

# Norms of a layer's other rows stay within a few times their median. Unlike the mean, the median does not move with the few
# that are outliers, and a multiple of it does not depend on the scale of the model.
FACTOR = 10
# Median norms between which sums of squares, over millions of rows, neither overflow float32 nor vanish in it.
_SHORTEST, _LONGEST = 1e-8, 1e14
# Row numbers that are written out.
_SHOWN = 3


class Outliers(NamedTuple):
    """The outlier tokens among others.

    Attributes:
      rows: their numbers, ascending.
      ratios: the norm of each over the median norm of all rows.
    """

    rows: Int[np.ndarray, " outliers"]
    ratios: Float[np.ndarray, " outliers"]


def norms(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """The l2 norm of each row, in float64, where squares of float32 have room."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))


def find_outliers(norms: Float[np.ndarray, " n"]) -> Outliers:
    """The rows of norm `‖y‖ > FACTOR · median ‖y‖`; none where the median is zero, as of sparse signals that are mostly off.

    Raises:
      ValueError: the median is so large or so small that float32 cannot hold sums of squares.
    """
    median = np.median(norms)
    if median > _LONGEST or 0 < median < _SHORTEST:
        raise ValueError(
            f"the activations have a median norm of {median:.1e}, and float32 cannot hold sums of such squares; scale all rows "
            f"by one number that brings it between {_SHORTEST:g} and {_LONGEST:g}, such as a power of two."
        )
    rows = np.flatnonzero(norms > FACTOR * median) if median > 0 else np.zeros(0, int)
    return Outliers(rows, norms[rows] / median)


def scale_down(signals: Float[Array, "n input_dim"]) -> Float[Array, "n input_dim"]:
    """What a learner sees of signals: `to_median`, which gives each outlier token the say of one ordinary row."""
    median = median_norm(signals)
    # Signals without outlier tokens are not copied.
    if not bool(_is_outlier(signals, median).any()):
        return signals
    logging.log_first_n(logging.WARNING, "rows of more than %d median norms count as of the median norm in learning", 1, FACTOR)
    return to_median(signals, median)


def median_norm(signals: Float[Array, "n input_dim"]) -> Float[Array, ""]:
    """The median of the l2 norms of rows."""
    return _module(signals).median(_lengths(signals))


def to_median(signals: Float[Array, "... input_dim"], median: Float[Array, ""]) -> Float[Array, "... input_dim"]:
    """Outlier tokens `y ← y · median / ‖y‖`; all others keep their bits."""
    module, scale = _module(signals), median / _module(signals).maximum(_lengths(signals), median)
    return module.where(_is_outlier(signals, median)[..., None], signals * scale[..., None], signals)


def _is_outlier(signals, median):
    return (_lengths(signals) > FACTOR * median) & (median > 0)


def _lengths(signals):
    return _module(signals).linalg.norm(signals, axis=-1)


def _module(signals):
    return jnp if isinstance(signals, jax.Array) else np


def describe(activations: "Activations") -> str:
    """How many rows are outliers, which, how large, and whether they begin their documents, in a sentence."""
    rows, ratios = activations.outliers
    if not len(rows):
        return f"no row is longer than {FACTOR} times the median norm"
    listed = ", ".join(f"{row:,}" for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
    low, high = (f"{ratio:,.0f}" for ratio in (ratios.min(), ratios.max()))
    one = len(rows) == 1
    size = low if low == high else f"{low} to {high}"
    told = f"{len(rows):,} of {activations.num_samples:,} rows {'is an outlier' if one else 'are outliers'}, "
    told += f"{size} times as long as the median row: {'number' if one else 'numbers'} {listed}"
    return told + _standing(activations, rows)


def _standing(activations: "Activations", rows: Int[np.ndarray, " outliers"]) -> str:
    if activations.documents is None:
        return ""
    _, starts = np.unique(activations.documents, return_index=True)
    first = int(np.isin(rows, starts).sum())
    if not first:
        return ", none of them the first of its document"
    if first < len(rows):
        return f", {first:,} of them the first of their document"
    return ", the first of its document" if first == 1 else ", all of them the first of their document"
