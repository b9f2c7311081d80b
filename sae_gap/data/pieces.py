"""Streams draw their samples in pieces, each by a random generator of its own, so that any part of
them can be drawn alone; and how loud their noise is.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float


def noise_scale(signals: Float[np.ndarray, "n input_dim"], decibels: float) -> float:
    """The standard deviation of noise at a signal-to-noise ratio, the mean square of all signals
    being their power.
    """
    return float(np.sqrt(np.mean(signals**2))) * 10 ** (-decibels / 20)


def pieces_of(start: int, count: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """The pieces of `size` samples that hold the `count` samples from number `start` on.

    Yields:
      The number of a piece, the samples to take from it, and their place among those asked for.
    """
    done = 0
    while done < count:
        piece, first = divmod(start + done, size)
        taken = min(size - first, count - done)
        yield piece, slice(first, first + taken), slice(done, done + taken)
        done += taken
