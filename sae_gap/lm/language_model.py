"""A language model of any kind, which can be cut open after any block, and the windows that it
reads: documents are cut, and their windows packed into batches of one shape, so that one program
runs them all.

A document begins anew in each window: tokens only see earlier ones of their own window, and
positions count from its start.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sae_gap.core import product

# Tokens of a batch: larger ones are no faster on a CPU, and store more attention scores.
TOKENS = 2_048
# The residual stream.
Stream = Float[Array, "rows length dim"]


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


class LanguageModel(eqx.Module):
    """A pure function of its parameters; subclasses define the abstract methods.

    Attributes:
      blocks: the parameters of all blocks, stacked along a leading axis of each leaf.
    """

    blocks: eqx.AbstractVar[Any]

    @property
    @abc.abstractmethod
    def unembedding(self) -> Float[Array, "vocabulary dim"]:
        """E; the logits are `E features(h)`."""

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """Number of tokens that the model was trained to read at once."""

    @abc.abstractmethod
    def embed(self, windows: Windows) -> Stream:
        """Returns the residual stream before the first block."""

    @abc.abstractmethod
    def block_parts(
        self, windows: Windows
    ) -> Callable[[Stream, Any], tuple[Stream, Stream, Stream]]:
        """Returns a function that maps the residual stream and one block's parameters to the stream
        after attention, what the MLP reads, and what it adds to the stream.
        """

    @abc.abstractmethod
    def features(self, hidden: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        """Maps the residual stream after the last block to the features that the unembedding
        multiplies.
        """

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(jax.tree.leaves(self.blocks)[0])

    @property
    def dim(self) -> int:
        """Dimension of the residual stream."""
        return self.unembedding.shape[1]

    @eqx.filter_jit
    def run_blocks(self, hidden: Stream, windows: Windows, start: int, stop: int) -> Stream:
        """Returns the residual stream after block `stop - 1`, given that before block `start`.

        Args:
          hidden: the residual stream before block `start`; `embed` gives the stream before block 0.
          windows: the texts.
          start: the first block to run, counted from 0.
          stop: the block to end before.
        """
        parts = self.block_parts(windows)

        def step(hidden, block):
            hidden, _, added = parts(hidden, block)
            return hidden + added, None

        blocks = jax.tree.map(lambda leaf: leaf[start:stop], self.blocks)
        return jax.lax.scan(step, hidden, blocks)[0]

    @eqx.filter_jit
    def run_mlp(self, hidden: Stream, windows: Windows, block: int) -> tuple[Stream, Stream]:
        """Returns what the MLP of a block reads, after its norm, and what it adds to the stream,
        given the residual stream before the block.
        """
        part = jax.tree.map(lambda leaf: leaf[block], self.blocks)
        return self.block_parts(windows)(hidden, part)[1:]

    @eqx.filter_jit
    def log_probabilities(
        self, hidden: Float[Array, "*rows dim"]
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns the log-probabilities of the next token, in nats, from the residual stream after
        the last block.
        """
        return jax.nn.log_softmax(product(self.features(hidden), self.unembedding.T), axis=-1)


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
