"""What a metric is, and what it reads: a method's codes on a task, with the certified optimum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import asarray
from scipy.sparse import csr_array

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
    squares,
)
from sae_gap.encoders import Encoder
from sae_gap.metrics import cuts

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


@dataclass(frozen=True)
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
    """

    task: Task
    model: Model
    codes: Mapping[str, AnyCodes]
    optimum: Mapping[str, Solution]
    lam: float
    protocol: str
    shared: dict[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None
    method: Any = None
    inference: Any = None

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
        task = (self.inference or self).task
        return asarray(task.id.signals)

    @cached_property
    def reconstruction(self) -> Float[np.ndarray, "n input_dim"]:
        """The reconstruction from the codes of the ID split, in the units of the activations."""
        x = self.activations
        read = self.task.id.inputs
        parts = [
            self.model.reconstruct(codes, x[rows], None if read is None else read[rows])
            for rows, codes in dense_chunks(self.codes["id"])
        ]
        return np.concatenate(parts)

    @cached_property
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
        if self.inference and self.task.ood is self.task.id:
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

        def known(name: str) -> Mapping[str, float]:
            truth = self.split(name).codes
            return {} if truth is None else score(name, truth, self.codes[name])

        return self.by_split(known)

    def terms(self, codes: AnyCodes, name: str = "id") -> Terms:
        """The terms of the objective `F(z) = ½‖y - b - D z‖² + λ‖z‖₁` on unit atoms, of codes in
        units of the model's atoms for a split.
        """
        atoms = asarray(self.model.decoder).T
        held = csr_array(codes)
        target = asarray(self.split(name).signals - self.model.bias)
        return Terms(target, held @ atoms, abs(held) @ np.sqrt(squares(atoms)))

    @cached_property
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
            lambda: nearest_atoms(self.model.decoder, asarray(self.task.dictionary)),
        )

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """The finding of that name on the model, computed on first use."""
        if name not in self.shared:
            self.shared[name] = find()
        return self.shared[name]


@dataclass(frozen=True)
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
    columns: Mapping[str, Column] = field(default_factory=dict)
    version: int = 1
    everywhere: bool = True
    needs: Callable[[Inferred], str | None] = lambda inferred: None

    def __call__(self, inferred: Inferred) -> Mapping[str, float | list[float]]:
        return self.measure(inferred) if self.needs(inferred) is None else {}
