"""A language model of any kind, which can be cut open after any block, and the windows that it
reads: documents are cut, and their windows packed into batches of one shape, so that one program
runs them all.

A document begins anew in each window: tokens only see earlier ones of their own window, and
positions count from its start.

Llama and Gemma 3.

With h the residual stream, a block is

  h ← h + W_o attention(R(W_q n), R(W_k n), W_v n),  n = norm(h; g_a)
  h ← h + W_d (silu(W_g n) ⊙ W_u n),                 n = norm(h; g_f)

where `norm(h; g) = g ⊙ h / sqrt(mean(h²) + ε)`, attention is causal, several heads share each key
and value, and R turns the pair of coordinates (2i, 2i + 1) of a head at position p by the angle
`p θ^(-2i/size)`. The logits are `E norm(h; g)`.

Gemma 3 also normalises each head's query and key before R, and the outputs of attention and of the
second map before it adds them to h. It uses gelu for silu and multiplies embeddings by sqrt(dim).
In five of six blocks a token only sees the last tokens, with another θ.

References:
  Touvron et al. (2023), "LLaMA". Su et al. (2021), "RoFormer". Ainslie et al. (2023), "GQA".
  Gemma Team (2025), "Gemma 3 Technical Report".
"""

import abc
import dataclasses
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
    def run_blocks(
        self, hidden: Stream, windows: Windows, start: int, stop: int
    ) -> Stream:
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
    def run_mlp(
        self, hidden: Stream, windows: Windows, block: int
    ) -> tuple[Stream, Stream]:
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
        return jax.nn.log_softmax(
            product(self.features(hidden), self.unembedding.T), axis=-1
        )


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes and constants of a model.

    Attributes:
      num_heads: number of query heads.
      num_kv_heads: number of key and value heads, which divides `num_heads`.
      epsilon: ε of the norms.
      context: number of tokens that the model was trained to read at once.
      scale: the factor of embeddings.
      activation: silu or gelu.
    """

    num_heads: int
    num_kv_heads: int
    epsilon: float
    context: int
    scale: float = 1.0
    activation: Callable[[Array], Array] = jax.nn.silu


class Block(eqx.Module):
    """The parameters of one block, or those of all blocks with a leading axis. Matrices map a row
    to a row, `x @ W`; norms are None where a model has none.

    Attributes:
      frequencies: the angle by which each pair of coordinates turns from one position to the next.
      reach: how many tokens a token sees, including itself.
    """

    attention_norm: Float[Array, "*blocks dim"]
    query: Float[Array, "*blocks dim heads_size"]
    key: Float[Array, "*blocks dim kv_size"]
    value: Float[Array, "*blocks dim kv_size"]
    output: Float[Array, "*blocks heads_size dim"]
    mlp_norm: Float[Array, "*blocks dim"]
    gate: Float[Array, "*blocks dim hidden"]
    up: Float[Array, "*blocks dim hidden"]
    down: Float[Array, "*blocks hidden dim"]
    frequencies: Float[Array, "*blocks pairs"]
    reach: Int[Array, "*blocks"]
    query_norm: Float[Array, "*blocks size"] | None = None
    key_norm: Float[Array, "*blocks size"] | None = None
    attention_output_norm: Float[Array, "*blocks dim"] | None = None
    mlp_output_norm: Float[Array, "*blocks dim"] | None = None


class Llama(LanguageModel):
    """The parameters of a model.

    Attributes:
      embedding: (vocabulary, dim).
      blocks: the parameters of all blocks, stacked.
      norm: g of the last norm.
      head: E, (vocabulary, dim); None if it is the embedding.
      shape: sizes and constants.
    """

    embedding: Float[Array, "vocabulary dim"]
    blocks: Block
    norm: Float[Array, " dim"]
    head: Float[Array, "vocabulary dim"] | None
    shape: Shape = eqx.field(static=True)

    @property
    def unembedding(self):
        return self.embedding if self.head is None else self.head

    @property
    def context(self):
        return self.shape.context

    def embed(self, windows):
        return self.shape.scale * self.embedding[windows.tokens]

    def block_parts(self, windows):
        shape = self.shape
        places = jnp.arange(windows.tokens.shape[1])
        distance = places[:, None] - places
        before = (distance >= 0) & (
            windows.segments[:, :, None] == windows.segments[:, None]
        )

        def parts(hidden, block):
            angles = windows.positions[..., None] * block.frequencies
            turn = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
            seen = before & (distance < block.reach)
            normed = _norm(hidden, block.attention_norm, shape.epsilon)
            added = product(_attend(normed, block, shape, turn, seen), block.output)
            hidden = hidden + _norm(added, block.attention_output_norm, shape.epsilon)
            normed = _norm(hidden, block.mlp_norm, shape.epsilon)
            gate = shape.activation(product(normed, block.gate))
            added = product(gate * product(normed, block.up), block.down)
            return hidden, normed, _norm(added, block.mlp_output_norm, shape.epsilon)

        return parts

    @eqx.filter_jit
    def features(self, hidden):
        return _norm(hidden, self.norm, self.shape.epsilon)


def _norm(hidden, gain, epsilon):
    if gain is None:
        return hidden
    return (
        gain
        * hidden
        * jax.lax.rsqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + epsilon)
    )


def _attend(normed, block, shape, turn, seen):
    """Returns the outputs of all heads, (rows, length, heads * size)."""
    rows, length, _ = normed.shape
    query, key, value = (
        product(normed, weight).reshape(rows, length, heads, -1)
        for weight, heads in (
            (block.query, shape.num_heads),
            (block.key, shape.num_kv_heads),
            (block.value, shape.num_kv_heads),
        )
    )
    query = _turned(_norm(query, block.query_norm, shape.epsilon), turn)
    key = _turned(_norm(key, block.key_norm, shape.epsilon), turn)
    # Consecutive query heads share one key and value head.
    query = query.reshape(rows, length, shape.num_kv_heads, -1, query.shape[-1])
    exact = jax.lax.Precision.HIGHEST
    scores = (
        jnp.einsum("bqkgd,bskd->bkgqs", query, key, precision=exact)
        / key.shape[-1] ** 0.5
    )
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bkgqs,bskd->bqkgd", weights, value, precision=exact).reshape(
        rows, length, -1
    )


def _turned(heads, turn):
    cos, sin = turn
    even = heads[..., ::2]
    odd = heads[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(
        heads.shape
    )


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
        tokens, positions, places = (
            np.zeros((count, context), np.int32) for _ in range(3)
        )
        segments, documents = (
            np.full((count, context), -1, np.int32) for _ in range(2)
        )
        for row, members in enumerate(rows[start : start + count]):
            at = 0
            for segment, piece in enumerate(members):
                own = row, slice(at, at := at + len(piece.tokens))
                within = np.arange(len(piece.tokens))
                tokens[own] = piece.tokens
                segments[own] = segment
                positions[own] = within
                documents[own] = piece.document
                places[own] = piece.place + within
        yield Batch(
            Windows(*map(jnp.asarray, (tokens, segments, positions))), documents, places
        )


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
