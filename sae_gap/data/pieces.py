"""Streams draw samples in pieces, each with its own random generator, so that any part can be drawn
alone. Also the loudness of their noise.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float


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
