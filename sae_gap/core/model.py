"""What a learner learned: a dictionary and the parameters of an encoder.

Shapes, throughout the suite: a dictionary is `(input_dim, num_latents)` with atoms as columns,
signals are `(n, input_dim)` and codes `(n, num_latents)`, with samples as rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from equinox import Module, field
from jaxtyping import Array, Float, PyTree
from scipy.sparse import issparse

from sae_gap.core import (
    ConstantNorm,
    LayerNorm,
    Normalisation,
    Scale,
    Whitening,
    shown,
)

# Bound to the class here, where JAX is loaded: PyTorch uses these classes without JAX.
for _kind in (Normalisation, Scale, Whitening, ConstantNorm, LayerNorm):
    jax.tree_util.register_dataclass(_kind)


class Model(Module):
    """All parameters that a learner learned.

    It codes the signal `y = normalise(x)` of an activation x, and transforms `b + D z` back into
    the units of x; a model without a normalisation takes activations as signals.

    Attributes:
      dictionary: D, atoms of any length, (input_dim, num_latents); None for a method without a
        decoder, such as a linear probe.
      bias: b, the decoder's offset, (input_dim,): a lasso on the dictionary fits `y - b`.
      encoder: the parameters of an encoder, or None.
      encode: the encoder that the model was trained with, a function `(model, signals) -> codes`,
        or None where inference is left to a solver.
      normalisation: the map that activations pass first; None is the identity.
    """

    dictionary: Float[Array, "input_dim num_latents"] | None
    bias: Float[Array, " input_dim"]
    encoder: PyTree = None
    encode: Callable[..., Array] | None = field(static=True, default=None)
    normalisation: Normalisation | None = None

    @property
    def num_inputs(self) -> int:
        """Dimension of what its own encoder reads."""
        return len(self.bias)

    def widths(self, reads_inputs: bool) -> tuple[int, ...]:
        """The columns that signals may have, for encoders that read inputs and for others."""
        return (len(self.bias),)

    def read(self, signals: Float[Array, "n input_dim"]) -> Float[Array, "n input_dim"]:
        """Returns what the affine map of its own encoder reads: `y - b`."""
        return signals - self.bias

    def outputs(
        self, signals: Float[Array, "n input_dim"]
    ) -> Float[Array, "n input_dim"]:
        """Returns what codes reconstruct, given what training passes to encoders."""
        return signals

    def signals(
        self,
        activations: Float[Array, "n input_dim"],
        inputs: Float[Any, "n num_inputs"] | None = None,
    ) -> Float[Array, "n input_dim"]:
        """Returns the normalised activations, which encoders code; only a transcoder uses
        `inputs`.
        """
        kind = self.normalisation
        return kind.apply(activations) if kind else activations

    def reconstruct(
        self,
        codes: Any,
        activations: Float[Any, "n input_dim"] | None,
        inputs: Float[Any, "n num_inputs"] | None = None,
    ) -> Float[Array, "n input_dim"]:
        """Reconstructs activations, in their units, from codes in units of the model's atoms.

        Args:
          codes: dense, or a sparse array, (n, num_latents).
          activations: the activations that were coded; a normalisation `per_sample` reads them.
          inputs: what a transcoder read.
        """
        if issparse(codes):
            product = jnp.asarray(codes @ np.asarray(self.decoder).T)
        else:
            product = codes @ self.decoder.T
        kind = self.normalisation
        decoded = product + self.bias
        return kind.undo(decoded, activations) if kind else decoded

    @property
    def decoder(self) -> Float[Array, "input_dim num_latents"]:
        """The dictionary; raises if there is none.

        Raises:
          ValueError: the model has none.
        """
        if self.dictionary is None:
            raise ValueError(
                "the model has no dictionary to code on or to decode with; give a model that has "
                "one."
            )
        return self.dictionary


class Transcoder(Model):
    """A model whose encoder reads an input x and whose codes explain another activation y, such as
    the output of an MLP:

      y ≈ D z(x) + b + x W_s,  so that codes should add up to the target y - b - x W_s.

    Solvers code the signals `y - x W_s`, as they code those of any model; its own encoder reads x
    as it is. In training x and y stand side by side, as [x | y].

    Attributes:
      centre: what its encoder subtracts from x, (num_inputs,); zeros for nothing.
      skip: W_s, (num_inputs, input_dim), or None for a transcoder without an affine skip.

    References:
      Dunefsky, Chlenski & Nanda (2024), "Transcoders find interpretable LLM feature circuits",
      arXiv:2406.11944. Paulo, Shabalin & Belrose (2025), "Transcoders beat sparse autoencoders for
      interpretability", arXiv:2501.18823, for the skip.
    """

    centre: Float[Array, " num_inputs"] = field(kw_only=True)
    skip: Float[Array, "num_inputs input_dim"] | None = field(
        kw_only=True, default=None
    )

    @property
    def num_inputs(self) -> int:
        return len(self.centre)

    def widths(self, reads_inputs: bool) -> tuple[int, ...]:
        explained = len(self.bias)
        read = self.num_inputs
        return (read, read + explained) if reads_inputs else (explained,)

    def read(self, signals: Float[Array, "n both"]) -> Float[Array, "n num_inputs"]:
        return signals[:, : self.num_inputs] - self.centre

    def outputs(self, signals: Float[Array, "n both"]) -> Float[Array, "n input_dim"]:
        inputs, activations = jnp.split(signals, [self.num_inputs], axis=1)
        return self.signals(activations, inputs)

    def signals(
        self,
        activations: Float[Array, "n input_dim"],
        inputs: Float[Any, "n num_inputs"] | None = None,
    ) -> Float[Array, "n input_dim"]:
        if self.skip is None:
            return activations
        return activations - self._read(inputs, len(activations)) @ self.skip

    def reconstruct(
        self,
        codes: Any,
        activations: Float[Any, "n input_dim"] | None,
        inputs: Float[Any, "n num_inputs"] | None = None,
    ) -> Float[Array, "n input_dim"]:
        decoded = super().reconstruct(codes, None)
        if self.skip is None:
            return decoded
        return decoded + self._read(inputs, len(decoded)) @ self.skip

    def _read(self, inputs: Any, rows: int) -> Float[Any, "n num_inputs"]:
        if np.shape(inputs) != (rows, self.num_inputs):
            raise ValueError(
                f"a transcoder with a skip reads inputs of shape ({rows}, {self.num_inputs}), but "
                f"they are {shown(inputs)}; give what its encoder reads as inputs."
            )
        return inputs
