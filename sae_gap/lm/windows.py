"""The windows that a language model reads: documents are cut, and their windows packed into batches
of one shape, so that one program runs them all.

A document begins anew in each window: tokens only see earlier ones of their own window, and
positions count from its start.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

# Tokens of a batch: larger ones are no faster on a CPU, and store more attention scores.
TOKENS = 2_048


class Windows(eqx.Module):
    """Texts packed into rows of one length.

    Attributes:
      tokens: numbers of tokens, (rows, length).
      segments: the text of each token, (rows, length); a token only sees tokens of its own text. -1
        is padding.
      positions: place of each token within its text, (rows, length).
    """

    tokens: Int[Array, "rows length"]
    segments: Int[Array, "rows length"]
    positions: Int[Array, "rows length"]


class Piece(NamedTuple):
    """A window of a document.

    Attributes:
      document: the number of its document.
      place: the place of its first token within the document.
      tokens: its tokens, at most as many as the context.
    """

    document: int
    place: int
    tokens: Int[np.ndarray, " length"]


class Batch(NamedTuple):
    """Windows of one shape, with the origin of their tokens.

    Attributes:
      windows: the input of the model, at most `batch_rows(context)` rows of `context` tokens.
      documents: the document of each token, (rows, context); -1 is padding.
      places: the place of each token within its document, (rows, context).
    """

    windows: Windows
    documents: Int[np.ndarray, "rows context"]
    places: Int[np.ndarray, "rows context"]


def cut(token_lists: Sequence[Int[np.ndarray, " tokens"]], context: int) -> list[Piece]:
    """Cuts documents into windows, in order. The last window of a document may be shorter; a
    document without tokens gives none.
    """
    return [
        Piece(document, place, tokens[place : place + context])
        for document, tokens in enumerate(token_lists)
        for place in range(0, len(tokens), context)
    ]


def batch_rows(context: int) -> int:
    """Returns the most rows of a batch."""
    return max(1, TOKENS // context)


def pack(pieces: Sequence[Piece], context: int) -> Iterator[Batch]:
    """Packs windows into rows, the longest first, each into the first row with room; short ones
    share a row.

    All batches have the same number of rows: the least that does not need more batches, so that few
    rows are empty.
    """
    rows = fill(pieces, context)
    num_batches = max(1, -(-len(rows) // batch_rows(context)))
    count = max(1, -(-len(rows) // num_batches))
    for start in range(0, len(rows), count):
        yield _batch(rows[start : start + count], (count, context))


def _batch(rows: Sequence[Sequence[Piece]], shape: tuple[int, int]) -> Batch:
    """The batch of the windows of each row; rows that are missing are padding."""
    tokens = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    places = np.zeros(shape, np.int32)
    segments = np.full(shape, -1, np.int32)
    documents = np.full(shape, -1, np.int32)
    for row, pieces in enumerate(rows):
        stop = 0
        for segment, piece in enumerate(pieces):
            start = stop
            stop += len(piece.tokens)
            within = np.arange(stop - start)
            tokens[row, start:stop] = piece.tokens
            segments[row, start:stop] = segment
            positions[row, start:stop] = within
            documents[row, start:stop] = piece.document
            places[row, start:stop] = piece.place + within
    windows = Windows(
        jnp.asarray(tokens), jnp.asarray(segments), jnp.asarray(positions)
    )
    return Batch(windows, documents, places)


def fill(pieces: Sequence[Piece], context: int) -> list[list[Piece]]:
    """Returns the windows of each row: the longest first, each in the first row with room."""
    rows: list[list[Piece]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.tokens)):
        length = len(piece.tokens)
        row = next((row for row, left in enumerate(room) if left >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(context)
        rows[row].append(piece)
        room[row] -= length
    return rows
