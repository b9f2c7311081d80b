"""Rows of a matrix: which of many stand for all, which count, and their lengths."""

from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

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


def counted(rows: Float[Any, "n input_dim"]) -> Bool[Any, " n"]:
    """The rows on which a threshold is found: all but those of zeros, such as padding, of which it
    warns.

    Args:
      rows: of NumPy, JAX or PyTorch.

    Raises:
      ValueError: all rows are zeros.
    """
    live = (rows != 0).any(-1)
    zeros = int((~live).sum())
    if zeros == len(live):
        raise ValueError("all rows are zeros; give activations, such as training rows.")
    if zeros:
        logging.warning(
            "%d of %d rows are zeros, as padding is, and do not count", zeros, len(live)
        )
    return live


def squares(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """The squared length of each row, in double precision."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
