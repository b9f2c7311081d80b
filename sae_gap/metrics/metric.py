"""A metric and its input: one method's codes on one task, beside the certified optimum; which codes
count as on, and from which magnitude, by a latent's own codes alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from sae_gap.core import (
    AnyCodes,
    Coded,
    Column,
    Match,
    Model,
    Solution,
    Split,
    Task,
    dense_chunks,
    match_atoms,
    nearest_atoms,
    ratio,
    squares,
)
from sae_gap.encoders import Encoder

# A code below this share of the latent's usual magnitude counts as off.
CUT = 1 / 3
# The splits that metrics score.
SCORED = ("id", "ood")


class Terms(NamedTuple):
    """What the lasso objective of each sample is made of.

    Attributes:
      target: y - b, (n, input_dim).
      fit: D z, (n, input_dim).
      size: ‖z‖₁ on unit atoms, (n,); codes of zero atoms count as zero.
    """

    target: Float[np.ndarray, "n input_dim"]
    fit: Float[np.ndarray, "n input_dim"]
    size: Float[np.ndarray, " n"]

    def objective(self, lam: float) -> Float[np.ndarray, " n"]:
        """F(z) of each sample."""
        return 0.5 * squares(self.target - self.fit) + lam * self.size


@dataclasses.dataclass(frozen=True)
class Inferred:
    """One method's result on one task.

    Attributes:
      task: the task, its truth included where it is known.
      model: the learned model.
      codes: codes of the splits "id" and "ood", and of "train" if its true codes are known, in
        units of the model's atoms; dense, or sparse if there are very many latents or samples.
      optimum: certified lasso solutions of "id" and "ood" on the model's dictionary with unit
        atoms, over signed codes if `codes` are signed and over non-negative ones if not; empty
        without a dictionary, and in studies without an optimum.
      lam: the weight of the l1 norm in `optimum`.
      protocol: "strict" or "paper".
      shared: cached findings on the model, common to all codes inferred on it.
      encoder: the encoder of the codes, with parameters found for a requested L0 filled in.
      method: the measured method: its learner, its encoder as requested, and the columns that
        identify its rows.
      inference: infers further codes on the model.
      on_base: infers codes on the model of the learner's base; on the model itself without one.
    """

    task: Task
    model: Model
    codes: Mapping[str, AnyCodes]
    optimum: Mapping[str, Solution]
    lam: float
    protocol: str
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    encoder: Encoder | None = None
    method: Any = None
    inference: Any = None
    on_base: Any = None

    @property
    def learner(self) -> Any:
        """The learner of the model."""
        return self.method and self.method.learner

    def infer(self, encoder: Encoder) -> Coded:
        """The codes of another encoder on the ID split, inferred once."""
        return self.inference.infer(encoder, "id")

    @property
    def activations(self) -> Float[np.ndarray, "n input_dim"]:
        """The rows of the ID split in their own units, as in the network."""
        task = self.task if self.inference is None else self.inference.task
        return np.asarray(task.id.signals)

    @functools.cached_property
    def reconstruction(self) -> Float[np.ndarray, "n input_dim"]:
        """The reconstruction from the codes of the ID split, in the units of the activations."""
        x = self.activations
        read = self.task.id.inputs
        parts = [
            self.model.reconstruct(codes, x[rows], None if read is None else read[rows])
            for rows, codes in dense_chunks(self.codes["id"])
        ]
        return np.concatenate(parts)

    @functools.cached_property
    def counts(self) -> Bool[np.ndarray, " n"]:
        """True for the samples of the ID split that count, (n,)."""
        held = self.task.id
        return np.ones(len(held.signals), bool) if held.counts is None else held.counts

    def by_document(self, values: Float[np.ndarray, " n"]) -> list[float]:
        """Sums values over the samples that count, for each document of the ID split."""
        documents = self.task.id.documents
        members = np.zeros(len(values), int) if documents is None else documents
        return np.bincount(members, values * self.counts, members.max() + 1).tolist()

    def split(self, name: str) -> Split:
        """The task's split of that name."""
        return getattr(self.task, name)

    def by_split(self, score: Callable[[str], Mapping[str, float]]) -> dict[str, float]:
        """Scores each scored split by its name; columns end in the split's name, unless a task has
        only one split.
        """
        if self.inference is not None and self.task.ood is self.task.id:
            return dict(score("id"))
        return {
            f"{key}_{name}": value
            for name in SCORED
            for key, value in score(name).items()
        }

    def with_truth(
        self, score: Callable[[str, Any, Any], Mapping[str, float]]
    ) -> dict[str, float]:
        """`by_split`, for the splits with known true codes.

        Args:
          score: function of the name of the split, its true codes and the inferred ones.
        """

        def known(name):
            truth = self.split(name).codes
            return {} if truth is None else score(name, truth, self.codes[name])

        return self.by_split(known)

    def terms(self, codes: AnyCodes, name: str = "id") -> Terms:
        """The terms of the objective `F(z) = ½‖y - b - D z‖² + λ‖z‖₁` on unit atoms, of codes in
        units of the model's atoms for a split.
        """
        atoms = np.asarray(self.model.decoder).T
        held = scipy.sparse.csr_array(codes)
        target = np.asarray(self.split(name).signals - self.model.bias)
        return Terms(target, held @ atoms, abs(held) @ np.sqrt(squares(atoms)))

    @functools.cached_property
    def cuts(self) -> Float[np.ndarray, " num_latents"]:
        """For each latent the magnitude below which it counts as off, from the codes of the ID
        split alone.
        """
        return cuts(self.codes["id"])

    @property
    def match(self) -> Match | None:
        """The learned atoms matched with the true ones, or None where either is unknown."""
        learned = self.model.dictionary
        truth = self.task.dictionary
        if learned is None or truth is None:
            return None
        return self.once("match", lambda: match_atoms(learned, truth))

    @property
    def nearest(self) -> Int[np.ndarray, " num_latents"]:
        """The true atom that each latent is taken to detect, if the model and the task have
        dictionaries.
        """
        return self.once(
            "nearest",
            lambda: nearest_atoms(self.model.decoder, np.asarray(self.task.dictionary)),
        )

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """The finding of that name on the model, computed on first use."""
        if name not in self.shared:
            self.shared[name] = find()
        return self.shared[name]


@dataclasses.dataclass(frozen=True)
class Metric:
    """Numbers of one method's codes on a task; the catalogue finds metrics in this folder.

    Attributes:
      name: identifies the metric in rows, with the version.
      measure: returns the numbers by their columns; a split's columns end in "_id" or "_ood". It
        leaves out what the task or the model cannot tell.
      columns: how to show the columns, by name without the split.
      version: raise it by hand when a change to the code changes the numbers.
      everywhere: whether every study measures it, unless the study names its metrics; its faults
        then cost no more than its columns.
      needs: says in words what it lacks among what was inferred; None if it can be measured.
    """

    name: str
    measure: Callable[[Inferred], Mapping[str, float | list[float]]]
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    version: int = 1
    everywhere: bool = True
    needs: Callable[[Inferred], str | None] = lambda inferred: None

    def __call__(self, inferred: Inferred) -> Mapping[str, float | list[float]]:
        return self.measure(inferred) if self.needs(inferred) is None else {}


def fires(
    codes: AnyCodes, least: Float[ArrayLike, " latent"] | float = 0.0
) -> scipy.sparse.csr_array:
    """Whether the magnitude of each code is above that of its latent, (n, num_latents).

    Args:
      codes: (n, num_latents).
      least: the magnitudes up to which codes count as off.
    """
    held = scipy.sparse.csr_array(codes)
    on = np.abs(held.data) > np.broadcast_to(least, held.shape[1])[held.indices]
    return scipy.sparse.csr_array((on, held.indices, held.indptr), held.shape)


def cuts(codes: AnyCodes, share: float = CUT) -> Float[np.ndarray, " latent"]:
    """For each latent the magnitude below which it counts as off, from its own codes alone.

    It is the least c with `c = share · Σ z² / Σ |z|`, both sums over the latent's codes with
    `|z| > c`: a share of their mean magnitude, each weighted by itself. It is found from 0 upwards.
    A lasso explains what a dictionary lacks by small codes. With a share of a third, the cut
    removes codes a tenth as large as those where the feature is on, even if they are up to 35 times
    as many. A latent without two sizes of codes, whose density falls as `z^-3.5` or more slowly,
    keeps only its few largest.

    Args:
      codes: (n, num_latents); no truth is needed.
      share: the share of the mean magnitude, above 0 and at most 0.99.

    Returns:
      (num_latents,), 0 for a latent that never fires.
    """
    held = scipy.sparse.csr_array(codes)
    size = np.abs(held.data, dtype=float)
    width = held.shape[1]
    latent = held.indices[size > 0]
    size = size[size > 0]
    unit = np.zeros(width)
    cut = np.zeros(width)
    # In units of the latent's largest code, so that no square overflows or underflows.
    np.maximum.at(unit, latent, size)
    size = size / unit[latent]
    # Each round drops codes below a share of the mean of the rest. That raises the mean and so the
    # cut, until no code is dropped.
    while len(size):
        sums = [np.bincount(latent, power, width) for power in (size, size**2)]
        cut = np.where(sums[0] > 0, share * ratio(sums[1], sums[0]), cut)
        stays = size > cut[latent]
        moves = np.bincount(latent[~stays], minlength=width) > 0
        latent, size = latent[stays & moves[latent]], size[stays & moves[latent]]
    return cut * unit
