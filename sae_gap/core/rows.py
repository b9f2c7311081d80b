"""Rows of a matrix: an even choice of them, runs of them, which ones count, and their lengths."""

from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float, Int
from numpy import arange, diff, einsum, float64

# The golden section.
GOLDEN = (5**0.5 - 1) / 2
# The fewest rows that give a score or a threshold.
FEWEST = 2
# The fewest and the most runs of rows, and how many times longer than their correlation they are.
RUNS = (5, 100)
APART = 10


def evenly_spaced(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Returns at most `most` indices below `count`, evenly spread, each once, ascending.

    It divides the range into equal parts and takes one index from each, offset by multiples of the
    golden section modulo 1. So the indices share no period with the rows, such as windows of one
    length, and do not always include the first row of a text, which is often unlike others.
    """
    most = min(most, count)
    edges = arange(most + 1) * count // max(1, most)
    return edges[:-1] + (arange(1, most + 1) * GOLDEN % 1 * diff(edges)).astype(int)


def slices(count: int, size: int) -> list[slice]:
    """Returns slices of `count` rows, of `size` rows each; the last may reach beyond the end."""
    return [slice(begin, begin + size) for begin in range(0, count, size)]


def runs(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Numbers runs of neighbouring rows, of nearly equal length, that count as independent.

    With ρ(h) the autocorrelation at lag h of the ranks of the values, which no outlier sways, the
    integrated autocorrelation time of n rows is

        τ = 1 + 2 Σ_h ρ(h),

    over lags up to the first pair ρ(2 m) + ρ(2 m + 1) that is not positive: Geyer's initial
    positive sequence. There are `n / (1 + 10 (τ - 1))` runs, but at least 5 and at most 100. The
    variance of their means, over their length, is at most a tenth too small if ρ(h) = ρ(1)^h.

    Args:
      values: a number for each row, such as a loss, in the order of the rows.

    References:
      Geyer (1992), "Practical Markov chain Monte Carlo".
    """
    # Takes longer to load than whatever else this folder needs.
    from scipy.stats import rankdata

    size = len(values)
    ranks = rankdata(values) - (size + 1) / 2
    power = np.abs(np.fft.rfft(ranks, 2 * size)) ** 2
    shared = np.fft.irfft(power)[: size + size % 2]
    # Values that are all alike have no correlation.
    pairs = shared.reshape(-1, 2).sum(axis=1) / (shared[0] or 1)
    more = 2 * pairs[np.cumprod(pairs > 0, dtype=bool)].sum() - 2
    count = np.clip(int(size / (1 + APART * max(0, more))), *RUNS)
    return arange(size) * min(count, size) // size


def counted(rows: Float[Any, "n input_dim"]) -> Float[Any, "live input_dim"]:
    """Returns the rows that a threshold is found on: all but zero rows, such as padding. It warns
    of these.

    Args:
      rows: an array of NumPy, JAX or PyTorch.

    Raises:
      ValueError: fewer than two rows are not all zeros.
    """
    live = (rows != 0).any(-1)
    count = int(live.sum())
    zeros = len(live) - count
    if count < FEWEST:
        raise ValueError(
            f"{count} rows that are not all zeros are too few to find a threshold on; give some "
            "hundreds."
        )
    if zeros:
        logging.warning(
            "%d of %d rows are zeros, as padding is, and do not count", zeros, len(live)
        )
    return rows[live]


def check_varies(activations: Float[np.ndarray, "n input_dim"]) -> None:
    """Raises a ValueError if all activations are equal, bit for bit: their mean, rounded, would
    hide it.
    """
    if np.all(activations == activations[:1]):
        raise ValueError(
            "all activations are alike, so that there is no variance to explain; give some "
            "hundreds that differ."
        )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Float[np.ndarray, " some"]:
    """The quotient of two arrays of equal length, 0 where the denominator is not above 0."""
    return np.divide(
        numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0
    )


def squares(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """Returns the squared length of each row, in double precision."""
    return einsum("ij,ij->i", rows, rows, dtype=float64)
