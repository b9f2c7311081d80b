"""The tokens of packed windows as rows of a matrix, padding left out, in the order of batches, rows
and places; and back.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap.lm import Windows


class TokenRows:
    """The rows of some batches of windows.

    Attributes:
      batches: the windows.
      real: a mask of what is no padding, for each batch, (rows, length).
      tokens: the token of each row.
      positions: its place in its window.
      following: the next token of its window, or -1.
    """

    def __init__(self, batches: Sequence[Windows]):
        self.batches = batches
        self.real = [np.asarray(windows.segments) >= 0 for windows in batches]
        # Unsigned tokens have no -1.
        self.tokens = self.join([windows.tokens for windows in batches], np.int64)
        self.positions = self.join([windows.positions for windows in batches], np.int64)
        self.following = self.join(map(_following, batches), np.int64)

    def join(self, values: Iterable[ArrayLike], dtype: Any = np.float32) -> np.ndarray:
        """Returns the rows of values of each batch, (rows, length, ...), in one type."""
        pairs = zip(values, self.real, strict=True)
        return np.concatenate([np.asarray(value, dtype)[real] for value, real in pairs])

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Returns the rows of each batch."""
        return np.split(rows, np.cumsum([real.sum() for real in self.real])[:-1])

    def spread(self, rows: Float[np.ndarray, "rows dim"]) -> list[np.ndarray]:
        """Returns the rows where their tokens stand in each batch, (rows, length, dim), with zeros
        for padding.
        """
        streams = []
        for real, part in zip(self.real, self.split(rows), strict=True):
            stream = np.zeros((*real.shape, rows.shape[1]), np.float32)
            stream[real] = part
            streams.append(stream)
        return streams

    def run(
        self,
        function: Callable[[Array, Windows], ArrayLike],
        streams: Iterable[ArrayLike],
    ) -> Float[np.ndarray, "rows dim"]:
        """Returns the rows that a function of a stream and its windows gives for each batch."""
        return self.join(map(function, map(jnp.asarray, streams), self.batches))


def _following(windows: Windows) -> np.ndarray:
    tokens = np.asarray(windows.tokens, np.int64)
    segments = np.asarray(windows.segments)
    following = np.full(tokens.shape, -1)
    same = segments[:, 1:] == segments[:, :-1]
    following[:, :-1][same] = tokens[:, 1:][same]
    return following
