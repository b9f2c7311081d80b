"""Rows of a matrix: which of many stand for all, and their lengths."""

import numpy as np
from jaxtyping import Float, Int

# The golden section.
GOLDEN = (5**0.5 - 1) / 2


def evenly_spaced(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """At most so many indices below `count`, evenly spread, each once, in ascending order.

    Each of as many parts of equal length has one, at the multiples of the golden section modulo 1,
    so that no period of the rows, such as that of windows of one length, is that of the indices,
    nor the first row of a text, which is often unlike others, always among them.
    """
    most = min(most, count)
    edges = np.arange(most + 1) * count // max(1, most)
    return edges[:-1] + (np.arange(1, most + 1) * GOLDEN % 1 * np.diff(edges)).astype(int)


def squares(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """The squared length of each row, in double precision."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
