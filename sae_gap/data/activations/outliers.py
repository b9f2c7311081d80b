"""Outlier tokens: the few tokens whose norm is far beyond all others'.

Transformers give some tokens, such as the first of a text, hundreds of times the usual norm. One of
them, squared, outweighs ten thousand others, and so sets the variance and the learned atoms.

References:
  Sun et al. (2024), "Massive activations in large language models".
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax import jit
from jaxtyping import Array, Float, Int
from numpy import flatnonzero

from sae_gap.core import squares

# A layer's other rows have norms within a few times their median. The median, unlike the mean, does
# not move with the few outliers, and a multiple of it does not depend on the model's scale.
FACTOR = 10
# Between these median norms, sums of squares over millions of rows neither overflow float32 nor
# vanish in it.
_SHORTEST = 1e-8
_LONGEST = 1e14


class Outliers(NamedTuple):
    """The outlier tokens of activations; `str` gives their number, norms and places.

    Attributes:
      rows: the numbers of their rows, ascending.
      ratios: the norm of each over the median norm of the non-zero rows.
      num_rows: number of rows of the activations.
      num_first: how many outliers are the first row of their document; None if the documents are
        unknown.
    """

    rows: Int[np.ndarray, " outliers"]
    ratios: Float[np.ndarray, " outliers"]
    num_rows: int
    num_first: int | None = None

    def __str__(self) -> str:
        if not len(self.rows):
            return f"no row is longer than {FACTOR} times the median norm"
        lengths = (
            f"{self.ratios.min():,.0f} to {self.ratios.max():,.0f} times as long as "
            "the median row"
        )
        text = f"{len(self.rows):,} of {self.num_rows:,} rows are outliers, {lengths}"
        if self.num_first is not None:
            text += f", {self.num_first:,} of them the first of their document"
        return text


def norms(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """Returns each row's l2 norm, in float64, which holds the squares of float32 numbers."""
    return np.sqrt(squares(rows))


def find_outliers(
    *norms: Float[np.ndarray, " n"], documents: Int[np.ndarray, " n"] | None = None
) -> Outliers:
    """Finds the rows of norm `‖y‖ > FACTOR · median ‖y‖`, with the median over non-zero rows, of
    what is explained or of what is read.

    Raises:
      ValueError: a median is too large or too small for sums of squares in float32.
    """
    ratios = np.zeros(len(norms[0]))
    for lengths in norms:
        median = np.median(lengths[lengths > 0]) if np.any(lengths) else 0.0
        if median > _LONGEST or 0 < median < _SHORTEST:
            raise ValueError(
                f"the activations have a median norm of {median:.1e}, and float32 cannot hold "
                "sums of such squares; scale all rows by one number that brings it between "
                f"{_SHORTEST:g} and {_LONGEST:g}, such as a power of two."
            )
        ratios = np.maximum(ratios, lengths / (median or 1))
    rows = flatnonzero(ratios > FACTOR)
    count = None
    if documents is not None:
        firsts = np.unique(documents, return_index=True)[1]
        count = len(np.intersect1d(rows, firsts))
    return Outliers(rows, ratios[rows], len(ratios), count)


def scale_down(signals: Float[Array, "n input_dim"]) -> Float[Array, "n input_dim"]:
    """Returns the signals as learners see them: `to_median` gives each outlier token the weight of
    one ordinary row.
    """
    # Signals without outlier tokens are not copied. One program checks for them: JAX would compile
    # each single step for every shape.
    any_outlier = jit(_any_outlier) if isinstance(signals, jax.Array) else _any_outlier
    if not any_outlier(signals):
        return signals
    logging.log_first_n(
        logging.WARNING,
        "rows of more than %d median norms count as of the median norm in learning",
        1,
        FACTOR,
    )
    return to_median(signals, median_norm(signals))


def median_norm(signals: Float[Array, "n input_dim"]) -> Float[Array, ""]:
    """Returns the median l2 norm of the non-zero rows; 0 if all rows are zero."""
    xp = signals.__array_namespace__()
    lengths = _lengths(signals)
    spare = xp.where(xp.any(lengths > 0), xp.nan, 0)
    return xp.nanmedian(xp.where(lengths > 0, lengths, spare.astype(lengths.dtype)))


def to_median(
    signals: Float[Array, "... input_dim"], median: Float[Array, ""]
) -> Float[Array, "... input_dim"]:
    """Scales outlier tokens, `y ← y · median / ‖y‖`; other rows keep their bits."""
    xp = signals.__array_namespace__()
    scale = median / xp.maximum(_lengths(signals), median)
    return xp.where(
        _is_outlier(signals, median)[..., None], signals * scale[..., None], signals
    )


def _is_outlier(signals: Any, median: Any) -> Any:
    return (_lengths(signals) > FACTOR * median) & (median > 0)


def _any_outlier(signals: Any) -> Any:
    return _is_outlier(signals, median_norm(signals)).any()


def _lengths(signals: Any) -> Any:
    # Of NumPy for arrays on the host, which saves a copy to the device.
    return signals.__array_namespace__().linalg.norm(signals, axis=-1)
