"""The data of a study: the splits of a task, and what is known of the truth behind them.

Shapes, throughout the suite: a dictionary is `(input_dim, num_latents)` with atoms as columns,
signals are `(n, input_dim)` and codes `(n, num_latents)`, with samples as rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from equinox import Module, field
from jaxtyping import Array, Bool, Float, Int
from numpy import asarray
from scipy.sparse import csc_array, issparse

from sae_gap.core import AnyCodes, Model, Transcoder

# The splits of a task: for training, for scores in distribution, and for scores out of it.
SPLITS = ("train", "id", "ood")


class Split(Module):
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

    def _counted(self, rows: Any) -> Float[np.ndarray, "m columns"]:
        rows = asarray(rows)
        return rows if self.counts is None else rows[self.counts]

    @property
    def labels(self) -> Bool[Array, " n"] | None:
        """The probe's target: whether latent 0 exceeds one half."""
        if self.codes is None:
            return None
        codes: Any = self.codes
        if issparse(codes):
            # Some sparse formats cannot be sliced.
            codes = csc_array(codes)[:, [0]].toarray()
        return codes[:, 0] > 0.5


@dataclass(eq=False)
class Unread:
    """A training split that is read once, when a learner asks for it.

    Args:
      read: returns the signals, (n, input_dim).
      read_inputs: returns what a transcoder reads, (n, num_inputs); None where there is nothing.
    """

    read: Callable[[], Any]
    read_inputs: Callable[[], Any] | None = None
    codes = labels = documents = counts = None

    @cached_property
    def signals(self) -> Float[Array, "n input_dim"]:
        """The rows to learn from."""
        return self.read()

    @cached_property
    def inputs(self) -> Float[Array, "n num_inputs"] | None:
        """What a transcoder reads of each row."""
        return self.read_inputs and self.read_inputs()


class Tree(Module):
    """A hierarchy of features: a child fires only where its parent does.

    Attributes:
      parent: the parent of each feature, -1 if it has none.
      level: levels below the root, 0 for a root and -1 for a feature in no tree.
    """

    parent: Int[np.ndarray, " N"]
    level: Int[np.ndarray, " N"]


class Task(Module):
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
    width: int = field(static=True, default=0)
    seed: int = field(static=True, default=0)
    padding: int = field(static=True, default=0)
    tree: Tree | None = None
    network: Any = field(static=True, default=None)
    concepts: Any = None

    @property
    def input_dim(self) -> int:
        """Dimension of the signals."""
        return self.id.signals.shape[1]
