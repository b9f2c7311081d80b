"""A language model of any kind, which can be cut open after any block."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from equinox import filter_jit
from jaxtyping import Array, Float

from sae_gap.core import product
from sae_gap.lm import Windows

# The residual stream.
Stream = Float[Array, "rows length dim"]


class LanguageModel(eqx.Module):
    """A pure function of its parameters; subclasses define the abstract methods.

    Attributes:
      blocks: the parameters of all blocks, stacked along a leading axis of each leaf.
    """

    blocks: eqx.AbstractVar[Any]

    @property
    @abstractmethod
    def unembedding(self) -> Float[Array, "vocabulary dim"]:
        """E; the logits are `E features(h)`."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Number of tokens that the model was trained to read at once."""

    @abstractmethod
    def embed(self, windows: Windows) -> Stream:
        """Returns the residual stream before the first block."""

    @abstractmethod
    def block_parts(
        self, windows: Windows
    ) -> Callable[[Stream, Any], tuple[Stream, Stream, Stream]]:
        """Returns a function that maps the residual stream and one block's parameters to the stream
        after attention, what the MLP reads, and what it adds to the stream.
        """

    @abstractmethod
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

    @filter_jit
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

    @filter_jit
    def run_mlp(
        self, hidden: Stream, windows: Windows, block: int
    ) -> tuple[Stream, Stream]:
        """Returns what the MLP of a block reads, after its norm, and what it adds to the stream,
        given the residual stream before the block.
        """
        part = jax.tree.map(lambda leaf: leaf[block], self.blocks)
        return self.block_parts(windows)(hidden, part)[1:]

    @filter_jit
    def log_probabilities(
        self, hidden: Float[Array, "*rows dim"]
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns the log-probabilities of the next token, in nats, from the residual stream after
        the last block.
        """
        return jax.nn.log_softmax(
            product(self.features(hidden), self.unembedding.T), axis=-1
        )
