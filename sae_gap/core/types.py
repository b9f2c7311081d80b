"""The nouns that everything else passes around: settings, data, models and solutions.

Shapes, throughout the suite: a dictionary is `(input_dim, num_latents)` with atoms as columns,
signals are `(n, input_dim)` and codes `(n, num_latents)`, with samples as rows.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool, Float, Int, PyTree

from sae_gap.core import (
    SEED,
    AnyCodes,
    ConstantNorm,
    LayerNorm,
    Normalisation,
    Scale,
    Whitening,
    check_integer,
    option,
    set_fields,
    settle,
    shown,
)

# The splits of a task: for training, for scores in distribution, and for scores out of it.
SPLITS = ("train", "id", "ood")
# Bound to the class here, where JAX is loaded: PyTorch uses these classes without JAX.
for _kind in (Normalisation, Scale, Whitening, ConstantNorm, LayerNorm):
    jax.tree_util.register_dataclass(_kind)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell of the paper's generative model, `y = A z`, with its seed.

    Args:
      num_latents: number of concepts.
      sparsity: number of active latents in each sample, k.
      num_samples: number of in-distribution samples, half of them for training and half for
        validation; with `stream` all for training.
      seed: seeds the dictionary, the samples and the learners.
      input_dim: dimension of the signals; None takes the compressed-sensing bound
        `max(k + 1, ceil(2 k ln(num_latents / k)))`.
      noise_db: signal-to-noise ratio in decibels of additive Gaussian noise; None draws noise-free
        signals.
      stream: whether training draws as many fresh samples as it asks for: signals alone, as the
        codes would not fit in memory.
      padded_dim: dimensions that signals and atoms are padded to with zeros, so that settings of
        several dimensions share compiled programs. Results are those without padding, except that a
        learner's random start depends on the shape. None pads nothing.
      width: atoms of the dictionaries to learn; None, which also replaces num_latents here, takes
        one for each concept.

    Raises:
      ValueError: a value is out of range, or no such data exist (the message says why).

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744.
    """

    num_latents: int = option(default=100)
    sparsity: int = option(default=10)
    num_samples: int = option(default=5_000, least=4)
    seed: int = option(default=0, **SEED)
    input_dim: int | None = option(default=None)
    noise_db: float | int | None = option(default=None, least=-200, most=200)
    stream: bool = option(default=False, rare=True)
    padded_dim: int | None = option(default=None, rare=True)
    width: int | None = option(default=None, rare=True)

    def __post_init__(self):
        settle(self)
        if self.sparsity >= self.num_latents:
            raise ValueError(
                f"sparsity must be below num_latents, but it is {self.sparsity} with "
                f"{self.num_latents} latents; lower sparsity or raise num_latents."
            )
        if self.width == self.num_latents:
            object.__setattr__(self, "width", None)
        check_width(self.sparsity, self.width)
        # Never above num_latents: 2 k ln(num_latents / k) is at most 2 num_latents / e.
        bound = math.ceil(
            2 * self.sparsity * math.log(self.num_latents / self.sparsity)
        )
        input_dim = self.input_dim or max(self.sparsity + 1, bound)
        object.__setattr__(self, "input_dim", input_dim)
        if input_dim > self.num_latents:
            raise ValueError(
                f"input_dim {input_dim} is above num_latents {self.num_latents}, which leaves "
                "nothing in superposition; lower input_dim or raise num_latents."
            )
        if self.padded_dim is not None:
            check_integer("padded_dim", self.padded_dim, least=input_dim)
        # The OOD pool is never smaller than the ID pool.
        pool = self.num_latents - self.num_ood - 1
        if pool < self.sparsity - 1:
            raise ValueError(
                f"the ID pool has {pool} latents, fewer than the sparsity - 1 = "
                f"{self.sparsity - 1} that "
                "co-occur with latent 0; lower sparsity or raise num_latents."
            )

    @property
    def num_ood(self) -> int:
        """Size of the pool of latents that co-occur with latent 0 only out of distribution."""
        return self.num_latents // 2

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return self.num_samples if self.stream else self.num_samples // 2

    @property
    def num_scored(self) -> int:
        """Number of OOD samples and, for a stream, of ID samples for validation; a stream scores
        fewer than it trains on.
        """
        return (
            min(self.num_samples // 2, 2_500) if self.stream else self.num_samples // 2
        )

    def asdict(self) -> dict[str, Any]:
        """Returns the values that tell settings apart, as in rows and keys."""
        return set_fields(self)


def check_width(sparsity: int, width: int | None) -> None:
    """Refuses dictionaries with no more atoms than a sample has active latents."""
    if width is not None and sparsity >= width:
        raise ValueError(
            f"sparsity must be below width, but it is {sparsity} with {width} atoms; lower "
            "sparsity or raise width."
        )


class Split(eqx.Module):
    """Samples of one split.

    Attributes:
      signals: (n, input_dim).
      codes: the true codes, (n, num_latents), or None. Those of very many latents, or of a
        world, are a sparse array.
      documents: each sample's document, from 0, as the unit of intervals; None names none.
      counts: a mask of the samples that metrics and calibration count; None counts all.
      inputs: what a transcoder reads to explain the signals, (n, num_inputs); None where encoders
        read the signals themselves.
    """

    signals: Float[Any, "n input_dim"]
    codes: AnyCodes | None = None
    documents: Int[np.ndarray, " n"] | None = None
    counts: Bool[np.ndarray, " n"] | None = None
    inputs: Float[Any, "n num_inputs"] | None = None

    @property
    def counted(self) -> Float[np.ndarray, "m input_dim"]:
        """The signals of the samples that count."""
        return self._counted(self.signals)

    def read_by(self, model: "Model") -> Float[np.ndarray, "m columns"]:
        """Returns what a model's own encoder reads of the samples that count."""
        return self._counted(
            self.inputs if isinstance(model, Transcoder) else self.signals
        )

    def _counted(self, rows):
        rows = np.asarray(rows)
        return rows if self.counts is None else rows[self.counts]

    @property
    def labels(self) -> Bool[Array, " n"] | None:
        """The probe's target: whether latent 0 exceeds one half."""
        if self.codes is None:
            return None
        # Some sparse formats cannot be sliced.
        sparse = scipy.sparse.issparse(self.codes)
        codes = (
            scipy.sparse.csc_array(self.codes)[:, [0]].toarray()
            if sparse
            else self.codes
        )
        return codes[:, 0] > 0.5


class Unread:
    """A training split that is read once, when a learner asks for it.

    Args:
      read: returns the signals, (n, input_dim).
      read_inputs: returns what a transcoder reads, (n, num_inputs); None where there is nothing.
    """

    codes = labels = documents = counts = None

    def __init__(
        self, read: Callable[[], Any], read_inputs: Callable[[], Any] | None = None
    ):
        self._read = read
        self._read_inputs = read_inputs

    @functools.cached_property
    def signals(self) -> Float[Array, "n input_dim"]:
        """The rows to learn from."""
        return self._read()

    @functools.cached_property
    def inputs(self) -> Float[Array, "n num_inputs"] | None:
        """What a transcoder reads of each row."""
        return None if self._read_inputs is None else self._read_inputs()


class Tree(eqx.Module):
    """A hierarchy of features: a child fires only where its parent does.

    Attributes:
      parent: the parent of each feature, -1 if it has none.
      level: levels below the root, 0 for a root and -1 for a feature in no tree.
    """

    parent: Int[np.ndarray, " N"]
    level: Int[np.ndarray, " N"]


class Task(eqx.Module):
    """The data of one setting. Only oracles and metrics may look at `dictionary` and at the codes
    of a split.

    `width` is the number of atoms to learn, which may differ from the number of true ones. The last
    `padding` dimensions of signals and atoms are zeros, from `Setting.padded_dim`; no mean counts
    them. `tree` is the hierarchy of a world's features. `network` scores reconstructions of the ID
    split, if a network lies behind it. `concepts` are the concepts that its rows are probed for, by
    name, as in `sae_gap.probing`.
    """

    train: Split | Unread
    id: Split
    ood: Split
    dictionary: Float[Array, "input_dim num_latents"] | None = None
    width: int = eqx.field(static=True, default=0)
    seed: int = eqx.field(static=True, default=0)
    padding: int = eqx.field(static=True, default=0)
    tree: Tree | None = None
    network: Any = eqx.field(static=True, default=None)
    concepts: Any = None

    @property
    def input_dim(self) -> int:
        """Dimension of the signals."""
        return self.id.signals.shape[1]


class Model(eqx.Module):
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
    encode: Callable[..., Array] | None = eqx.field(static=True, default=None)
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
        return activations if kind is None else kind.apply(activations)

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
        if scipy.sparse.issparse(codes):
            product = jnp.asarray(codes @ np.asarray(self.decoder).T)
        else:
            product = codes @ self.decoder.T
        kind = self.normalisation
        decoded = product + self.bias
        return decoded if kind is None else kind.undo(decoded, activations)

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

    centre: Float[Array, " num_inputs"] = eqx.field(kw_only=True)
    skip: Float[Array, "num_inputs input_dim"] | None = eqx.field(
        kw_only=True, default=None
    )

    @property
    def num_inputs(self):
        return len(self.centre)

    def widths(self, reads_inputs):
        own = len(self.bias)
        read = self.num_inputs
        return (read, read + own) if reads_inputs else (own,)

    def read(self, signals):
        return signals[:, : self.num_inputs] - self.centre

    def outputs(self, signals):
        inputs, activations = jnp.split(signals, [self.num_inputs], axis=1)
        return self.signals(activations, inputs)

    def signals(self, activations, inputs=None):
        if self.skip is None:
            return activations
        return activations - self._read(inputs, len(activations)) @ self.skip

    def reconstruct(self, codes, activations, inputs=None):
        decoded = super().reconstruct(codes, None)
        return (
            decoded
            if self.skip is None
            else decoded + self._read(inputs, len(decoded)) @ self.skip
        )

    def _read(self, inputs, rows):
        if np.shape(inputs) != (rows, self.num_inputs):
            raise ValueError(
                f"a transcoder with a skip reads inputs of shape ({rows}, {self.num_inputs}), but "
                f"they are {shown(inputs)}; give what its encoder reads as inputs."
            )
        return inputs


class Coded(eqx.Module):
    """Codes of n signals from any method; those of very many latents or samples are a sparse
    array.
    """

    codes: Float[Array, "n num_latents"]


class Solution(Coded):
    """Codes of n signals with their certificates.

    Attributes:
      codes: the minimisers.
      objective: the value of the lasso objective at `codes`.
      gap: a duality gap: `objective - gap` is a lower bound on the optimum.
      iterations: iterations spent on the sample.
      converged: whether the gap is at most `tol` times the objective.
    """

    objective: Float[Array, " n"]
    gap: Float[Array, " n"]
    iterations: Int[Array, " n"]
    converged: Bool[Array, " n"]
