"""Llama and Gemma 3.

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

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import product
from sae_gap.lm import LanguageModel, Windows
from sae_gap.lm.language_model import Stream


@dataclass(frozen=True)
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
    scale: float
    activation: Callable[[Array], Array]


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
    def unembedding(self) -> Array:
        return self.embedding if self.head is None else self.head

    @property
    def context(self) -> int:
        return self.shape.context

    def embed(self, windows: Windows) -> Stream:
        return self.shape.scale * self.embedding[windows.tokens]

    def block_parts(
        self, windows: Windows
    ) -> Callable[[Stream, Block], tuple[Stream, Stream, Stream]]:
        shape = self.shape
        places = jnp.arange(windows.tokens.shape[1])
        distance = places[:, None] - places
        segments = windows.segments
        before = (distance >= 0) & (segments[:, :, None] == segments[:, None])

        def parts(hidden: Stream, block: Block) -> tuple[Stream, Stream, Stream]:
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
    def features(self, hidden: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        return _norm(hidden, self.norm, self.shape.epsilon)


def _norm(hidden: Array, gain: Array | None, epsilon: float) -> Array:
    if gain is None:
        return hidden
    # Gradients are summed in the order of these products.
    scaled = gain * hidden
    square = jnp.mean(hidden**2, axis=-1, keepdims=True)
    return scaled * jax.lax.rsqrt(square + epsilon)


def _attend(
    normed: Stream,
    block: Block,
    shape: Shape,
    turn: tuple[Array, Array],
    seen: Bool[Array, "rows length length"],
) -> Float[Array, "rows length heads_size"]:
    """Returns the outputs of all heads side by side."""
    rows, length, _ = normed.shape

    def heads(weight: Array, count: int) -> Float[Array, "rows length count size"]:
        return product(normed, weight).reshape(rows, length, count, -1)

    query = heads(block.query, shape.num_heads)
    key = heads(block.key, shape.num_kv_heads)
    value = heads(block.value, shape.num_kv_heads)
    query = _turned(_norm(query, block.query_norm, shape.epsilon), turn)
    key = _turned(_norm(key, block.key_norm, shape.epsilon), turn)
    size = key.shape[-1]
    # Consecutive query heads share one key and value head.
    query = query.reshape(rows, length, shape.num_kv_heads, -1, size)
    exact = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("bqkgd,bskd->bkgqs", query, key, precision=exact) / size**0.5
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1)
    outputs = jnp.einsum("bkgqs,bskd->bqkgd", weights, value, precision=exact)
    return outputs.reshape(rows, length, -1)


def _turned(heads: Array, turn: tuple[Array, Array]) -> Array:
    """Turns the pairs of coordinates of each head by the angles with this cosine and sine."""
    cos, sin = turn
    even = heads[..., ::2]
    odd = heads[..., 1::2]
    pairs = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return pairs.reshape(heads.shape)
