"""Draws that sources of data share: subsets, unit atoms, the loudness of noise, and pieces."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import flatnonzero

from sae_gap.core import float_type, slices

# The most numbers that are held at once while drawing subsets and dictionaries.
DRAWS_AT_ONCE = 4_000_000


def distinct(
    n: int, k: int, size: int, rng: np.random.Generator, stream: bool = False
) -> Int[np.ndarray, "n k"]:
    """Draws n uniformly random k-subsets of range(size), one a row."""
    if k == 0:
        return np.zeros((n, 0), np.int64)
    # If duplicates are rare, redrawing the rows that have one is cheaper than ranking `size`
    # uniforms a row, which pays from k² latents on. Settings other than streams keep the bound 10
    # k² that stored rows were drawn by.
    factor = 1 if stream else 10
    if size > factor * k * k:
        return _redrawn(n, k, size, rng)
    subsets = []
    for part in slices(n, max(1, DRAWS_AT_ONCE // size)):
        uniforms = rng.random((min(part.stop, n) - part.start, size))
        subsets.append(uniforms.argpartition(k - 1, axis=1)[:, :k])
    return np.concatenate(subsets)


def _redrawn(
    n: int, k: int, size: int, rng: np.random.Generator
) -> Int[np.ndarray, "n k"]:
    """Draws rows of k numbers, and those again that have a number twice."""
    subsets = rng.integers(size, size=(n, k))
    while True:
        ordered = np.sort(subsets, axis=1)
        clash = flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not clash.size:
            return subsets
        subsets[clash] = rng.integers(size, size=(clash.size, k))


def unit_dictionary(
    new_rng: Callable[[], np.random.Generator],
    shape: tuple[int, int],
    active: Int[np.ndarray, " m"],
) -> tuple[Float[np.ndarray, "input_dim N"], Float[np.ndarray, "m input_dim"]]:
    """Draws Gaussian directions as columns.

    A million atoms in float64 take gigabytes, so it draws some rows at a time, and draws twice:
    first for the atoms' lengths.

    Args:
      new_rng: makes the generator anew.
      shape: (input_dim, N).
      active: columns to return in float64, too.

    Returns:
      The dictionary in the default float type, and its active columns as rows, in float64.
    """
    input_dim, width = shape
    parts = slices(input_dim, max(1, DRAWS_AT_ONCE // width))

    def pieces() -> Iterator[tuple[slice, Float[np.ndarray, "rows N"]]]:
        rng = new_rng()
        for rows in parts:
            count = min(rows.stop, input_dim) - rows.start
            yield rows, rng.standard_normal((count, width))

    squares = np.zeros(width)
    for _, piece in pieces():
        for row in piece:
            squares += row * row
    lengths = np.sqrt(squares)
    dictionary = np.empty(shape, float_type())
    atoms = np.empty((len(active), input_dim))
    for rows, piece in pieces():
        piece /= lengths
        dictionary[rows] = piece
        atoms[:, rows] = piece[:, active].T
    return dictionary, atoms


def noise_scale(signals: Float[np.ndarray, "n input_dim"], decibels: float) -> float:
    """Returns the standard deviation of noise at a signal-to-noise ratio; the power of the signals
    is their mean square.
    """
    return float(np.sqrt(np.mean(signals**2))) * 10 ** (-decibels / 20)


def pieces_of(start: int, count: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Gives the pieces of `size` samples that hold the `count` samples from number `start` on.

    Yields:
      The number of a piece, the samples to take from it, and their place in the request.
    """
    done = 0
    while done < count:
        piece, first = divmod(start + done, size)
        taken = min(size - first, count - done)
        yield piece, slice(first, first + taken), slice(done, done + taken)
        done += taken
