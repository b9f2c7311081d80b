"""Cuts documents into windows, and packs windows into batches of one shape, so that one program
runs them all.

A document begins anew in each window: tokens only see earlier ones of their own window, and
positions count from its start.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sae_gap.lm import Windows

# Tokens of a batch: larger ones are no faster on a CPU, and store more attention scores.
TOKENS = 2_048


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
    count = -(-len(rows) // max(1, -(-len(rows) // batch_rows(context))))
    for start in range(0, len(rows), max(1, count)):
        tokens, positions, places = (np.zeros((count, context), np.int32) for _ in range(3))
        segments, documents = (np.full((count, context), -1, np.int32) for _ in range(2))
        for row, members in enumerate(rows[start : start + count]):
            at = 0
            for segment, piece in enumerate(members):
                own = row, slice(at, at := at + len(piece.tokens))
                within = np.arange(len(piece.tokens))
                tokens[own], segments[own], positions[own] = piece.tokens, segment, within
                documents[own], places[own] = piece.document, piece.place + within
        yield Batch(Windows(*map(jnp.asarray, (tokens, segments, positions))), documents, places)


def fill(pieces: Sequence[Piece], context: int) -> list[list[Piece]]:
    """Returns the windows of each row."""
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
