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

from sae_gap.core.checks import SEED, check_integer
from sae_gap.core.codes import SparseCodes
from sae_gap.core.normalise import ConstantNorm, LayerNorm, Normalisation, Scale, Whitening
from sae_gap.core.options import option, settle

# The splits of a task: to learn from, to score in distribution, and to score out of it.
SPLITS = ("train", "id", "ood")
# Beside the class, where JAX is there: PyTorch normalises with these classes alone.
for _kind in (Normalisation, Scale, Whitening, ConstantNorm, LayerNorm):
    jax.tree_util.register_dataclass(_kind)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell of the paper's generative model, `y = A z`, with its seed.

    Args:
      num_latents: number of concepts.
      sparsity: number of active latents in each sample, k.
      num_samples: number of in-distribution samples, half of them for training, half for
        validation; as a stream, all of them for training.
      seed: seeds the dictionary, the samples and the learners.
      input_dim: dimension of the signals; None takes the compressed-sensing bound
        `max(k + 1, ceil(2 k ln(num_latents / k)))`.
      noise_db: signal-to-noise ratio in decibels of additive Gaussian noise; None draws noise-free
        signals.
      stream: whether training has as many fresh samples as it may ask for: signals alone, whose
        codes would not fit in memory.
      padded_dim: dimensions that signals and atoms are padded to with zeros, so that settings of
        several dimensions share their compiled programs. What is learned and measured is what it
        would be without, but for the random numbers that a learner starts from, which depend on the
        shape. None pads nothing.
      width: atoms of the dictionaries to learn; None, which a width of num_latents becomes too,
        takes one for each concept.

    Raises:
      ValueError: a value is out of range, or the setting has no such data (see the message).

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744.
    """

    num_latents: int = option(default=100)
    sparsity: int = option(default=10)
    num_samples: int = option(default=5_000, least=4)
    seed: int = option(default=0, **SEED)
    input_dim: int | None = option(default=None)
    noise_db: float | int | None = option(default=None, least=-200, most=200)
    stream: bool = option(default=False)
    padded_dim: int | None = option(default=None)
    width: int | None = option(default=None)

    def __post_init__(self):
        settle(self)
        if self.sparsity >= self.num_latents:
            raise ValueError(
                f"sparsity must be below num_latents, but it is {self.sparsity} with "
                f"{self.num_latents} latents; "
                "lower sparsity or raise num_latents."
            )
        if self.width == self.num_latents:
            object.__setattr__(self, "width", None)
        check_width(self.sparsity, self.width)
        # Never above num_latents: 2 k ln(num_latents / k) is at most 2 num_latents / e.
        bound = math.ceil(2 * self.sparsity * math.log(self.num_latents / self.sparsity))
        input_dim = self.input_dim or max(self.sparsity + 1, bound)
        object.__setattr__(self, "input_dim", input_dim)
        if input_dim > self.num_latents:
            raise ValueError(
                f"input_dim {input_dim} is above num_latents {self.num_latents}, which leaves "
                "nothing in superposition; "
                "lower input_dim or raise num_latents."
            )
        if self.padded_dim is not None:
            check_integer("padded_dim", self.padded_dim, least=input_dim)
        # That of the OOD latents is never the smaller one.
        pool = self.num_latents - self.num_ood - 1
        if pool < self.sparsity - 1:
            raise ValueError(
                f"the ID pool has {pool} latents, fewer than the sparsity - 1 = "
                f"{self.sparsity - 1} that "
                "co-occur with latent 0; lower sparsity or raise num_latents."
            )

    @property
    def num_ood(self) -> int:
        """Size of the pool of latents that never co-occur with latent 0 in distribution."""
        return self.num_latents // 2

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return self.num_samples if self.stream else self.num_samples // 2

    @property
    def num_scored(self) -> int:
        """Number of OOD samples and, beside a stream, of ID samples for validation: not so many as
        there are to train on.
        """
        return min(self.num_samples // 2, 2_500) if self.stream else self.num_samples // 2

    def asdict(self) -> dict[str, Any]:
        """What tells settings apart, as rows and keys have it."""
        values = dataclasses.asdict(self)
        # Rare options appear only where set, so that other settings keep their keys.
        defaults = {"stream": False, "padded_dim": None, "width": None}
        return {
            name: value
            for name, value in values.items()
            if name not in defaults or value != defaults[name]
        }


def check_width(sparsity: int, width: int | None) -> None:
    """Refuses dictionaries that have no more atoms than are active in a sample."""
    if width is not None and sparsity >= width:
        raise ValueError(
            f"sparsity must be below width, but it is {sparsity} with {width} atoms; lower "
            "sparsity or raise width."
        )


class Split(eqx.Module):
    """Samples of one split.

    Attributes:
      signals: (n, input_dim).
      codes: the true ones, (n, num_latents), or None. Codes of very many latents are `Codes`, and
        those of a world a sparse array.
      documents: of each sample, counted from 0; intervals are over these. None names none.
      counts: which samples metrics and calibration count; None counts all.
    """

    signals: Float[Any, "n input_dim"]
    codes: Float[Array, "n num_latents"] | SparseCodes | None = None
    documents: Int[np.ndarray, " n"] | None = None
    counts: Bool[np.ndarray, " n"] | None = None

    @property
    def counted(self) -> Float[np.ndarray, "m input_dim"]:
        """The signals of the samples that count."""
        signals = np.asarray(self.signals)
        return signals if self.counts is None else signals[self.counts]

    @property
    def labels(self) -> Bool[Array, " n"] | None:
        """What the probe predicts: whether latent 0 exceeds one half."""
        if self.codes is None:
            return None
        # A column of a sparse array is sparse, and of its formats not all can be sliced.
        codes = (
            scipy.sparse.csr_array(self.codes)[:, [0]].toarray()
            if scipy.sparse.issparse(self.codes)
            else self.codes
        )
        return codes[:, 0] > 0.5


class Unread:
    """A training split that is read when a learner asks for it, once.

    Args:
      read: gives the signals, (n, input_dim).
    """

    codes = labels = documents = counts = None

    def __init__(self, read: Callable[[], Any]):
        self._read = read

    @functools.cached_property
    def signals(self) -> Float[Array, "n input_dim"]:
        """The rows to learn from."""
        return self._read()


class Tree(eqx.Module):
    """Which feature fires only where which other does.

    Attributes:
      parent: of each feature, -1 for one that has none.
      level: levels below its root, 0 for a root and -1 for a feature in no tree.
    """

    parent: Int[np.ndarray, " N"]
    level: Int[np.ndarray, " N"]


class Task(eqx.Module):
    """The data of one setting. Only oracles and metrics may look at `dictionary` and at the codes
    of a split.

    `width` is the number of atoms to learn, which need not be that of the true ones. The last
    `padding` dimensions of signals and atoms are zeros that `Setting.padded_dim` asked for; no mean
    counts them. `tree` is that of a world whose features have a hierarchy. `network` scores
    reconstructions of the ID split, where a network stands behind it. `concepts` are what its rows
    are probed for, by name, as `sae_gap.probing` has them.
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
    """All that a learner learned.

    Of an activation x it codes the signal `y = normalise(x)`, and `b + D z` is undone into the
    units of x; a model without a normalisation takes activations for signals.

    Attributes:
      dictionary: D, atoms of any length, (input_dim, num_latents); None for a method that has no
        decoder, such as a linear probe.
      bias: b, what the decoder adds: a lasso on the dictionary fits `y - b`, (input_dim,).
      encoder: the parameters that an encoder reads, or None.
      encode: the encoder that the model was trained with, a function `(model, signals) -> codes`,
        or None where inference is left to a solver.
      normalisation: what is done to activations first; None is the identity.
    """

    dictionary: Float[Array, "input_dim num_latents"] | None
    bias: Float[Array, " input_dim"]
    encoder: PyTree = None
    encode: Callable[..., Array] | None = eqx.field(static=True, default=None)
    normalisation: Normalisation | None = None

    def signals(self, activations: Float[Array, "n input_dim"]) -> Float[Array, "n input_dim"]:
        """The normalised activations, which encoders code."""
        kind = self.normalisation
        return activations if kind is None else kind.apply(activations)

    def reconstruct(
        self, codes: Any, activations: Float[Any, "n input_dim"] | None
    ) -> Float[Array, "n input_dim"]:
        """What codes in units of the model's atoms reconstruct of activations, in their units.

        Args:
          codes: dense, or a sparse array, (n, num_latents).
          activations: that the codes are of; a normalisation of each sample by itself reads them.
        """
        if scipy.sparse.issparse(codes):
            product = jnp.asarray(codes @ np.asarray(self.decoder).T)
        else:
            product = codes @ self.decoder.T
        kind, decoded = self.normalisation, product + self.bias
        return decoded if kind is None else kind.undo(decoded, activations)

    @property
    def decoder(self) -> Float[Array, "input_dim num_latents"]:
        """The dictionary, of a model that must have one.

        Raises:
          ValueError: the model has none.
        """
        if self.dictionary is None:
            raise ValueError(
                "the model has no dictionary to code on or to decode with; give a model that has "
                "one."
            )
        return self.dictionary


class Coded(eqx.Module):
    """Codes of n signals, whatever made them; those of very many latents are `Codes`, or a sparse
    array where asked for.
    """

    codes: Float[Array, "n num_latents"]

    @property
    def certified(self) -> "Solution | None":
        """The codes with their certificates, if they have any."""
        return None


class Solution(Coded):
    """Codes of n signals with their certificates.

    Attributes:
      codes: the minimisers found.
      objective: the value of the lasso objective at `codes`.
      gap: a duality gap: `objective - gap` is a lower bound on the optimum.
      iterations: iterations spent on the sample.
      converged: whether the gap is at most `tol` times the objective.
    """

    objective: Float[Array, " n"]
    gap: Float[Array, " n"]
    iterations: Int[Array, " n"]
    converged: Bool[Array, " n"]

    @property
    def certified(self) -> "Solution":
        return self
