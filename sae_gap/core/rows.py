"""Rows of a matrix: an even choice of them, the ones that count, and their lengths."""

from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

# The golden section.
GOLDEN = (5**0.5 - 1) / 2
# The fewest rows that give a score or a threshold.
FEWEST = 2


def evenly_spaced(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Returns at most `most` indices below `count`, evenly spread, each once, ascending.

    It divides the range into equal parts and takes one index from each, offset by multiples of the
    golden section modulo 1. So the indices share no period with the rows, such as windows of one
    length, and do not always include the first row of a text, which is often unlike others.
    """
    most = min(most, count)
    edges = np.arange(most + 1) * count // max(1, most)
    return edges[:-1] + (np.arange(1, most + 1) * GOLDEN % 1 * np.diff(edges)).astype(int)


def counted(rows: Float[Any, "n input_dim"]) -> Bool[Any, " n"]:
    """Marks the rows that a threshold is found on: all but zero rows, such as padding. It warns of
    these.

    Args:
      rows: an array of NumPy, JAX or PyTorch.

    Raises:
      ValueError: fewer than two rows are not all zeros.
    """
    live = (rows != 0).any(-1)
    zeros = int((~live).sum())
    if len(live) - zeros < FEWEST:
        few = f"{len(live) - zeros} rows that are not all zeros"
        raise ValueError(f"{few} are too few to find a threshold on; give some hundreds.")
    if zeros:
        logging.warning(
            "%d of %d rows are zeros, as padding is, and do not count", zeros, len(live)
        )
    return live


def squares(rows: Float[np.ndarray, "n input_dim"]) -> Float[np.ndarray, " n"]:
    """Returns the squared length of each row, in double precision."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
