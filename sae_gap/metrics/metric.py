"""What a metric is, and what it may look at: one method's codes on one task, with the certified
optimum beside them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core.codes import SparseCodes, dense_chunks
from sae_gap.core.matching import Match, match_atoms, nearest_atoms
from sae_gap.core.registry import Column
from sae_gap.core.types import Coded, Model, Solution, Split, Task
from sae_gap.encoders.encoder import Encoder, unit_atoms
from sae_gap.metrics.cuts import cuts

# The splits that metrics score.
SCORED = ("id", "ood")


@dataclasses.dataclass(frozen=True)
class Inferred:
    """One method's result on one task.

    Attributes:
      task: the task, its truth included where it is known.
      model: what was learned.
      codes: of the splits "id" and "ood", and of "train" where its true codes are known, in units
        of the model's atoms; dense, as `Codes` if there are very many latents, or sparse if there
        are very many samples.
      optimum: certified lasso solutions of "id" and "ood" on the model's dictionary with unit
        atoms, over signed codes if `codes` are signed and over non-negative ones if not; empty
        without a dictionary, and where the study does without.
      lam: the weight of the l1 norm in `optimum`.
      protocol: "strict" or "paper".
      shared: what was found of the model before, for all that is inferred on it.
      encoder: what inferred the codes, with whatever a requested L0 decided.
      method: what is measured: its learner, its encoder as it was asked for, and the columns that
        tell its rows.
      inference: what gives further codes on the model.
    """

    task: Task
    model: Model
    codes: Mapping[str, Float[np.ndarray, "n num_latents"] | SparseCodes]
    optimum: Mapping[str, Solution]
    lam: float
    protocol: str
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    encoder: Encoder | None = None
    method: Any = None
    inference: Any = None

    @property
    def learner(self) -> Any:
        """Where the model came from."""
        return self.method and self.method.learner

    def infer(self, encoder: Encoder) -> Coded:
        """The codes of another encoder on the ID split, found once."""
        return self.inference.infer(encoder, "id")

    @property
    def activations(self) -> Float[np.ndarray, "n input_dim"]:
        """The rows of the ID split in their own units, as the network has them."""
        task = self.task if self.inference is None else self.inference.task
        return np.asarray(task.id.signals)

    @functools.cached_property
    def reconstruction(self) -> Float[np.ndarray, "n input_dim"]:
        """What the codes of the ID split reconstruct, in the units of the activations."""
        x, chunks = self.activations, dense_chunks(self.codes["id"])
        return np.concatenate([self.model.reconstruct(part, x[rows]) for rows, part in chunks])

    @functools.cached_property
    def counts(self) -> Bool[np.ndarray, " n"]:
        """Which samples of the ID split count."""
        held = self.task.id
        return np.ones(len(held.signals), bool) if held.counts is None else held.counts

    def by_document(self, values: Float[np.ndarray, " n"]) -> list[float]:
        """The sums of values of the samples that count, over each document of the ID split."""
        documents = self.task.id.documents
        members = np.zeros(len(values), int) if documents is None else documents
        return np.bincount(members, values * self.counts, members.max() + 1).tolist()

    def split(self, name: str) -> Split:
        """The task's split of that name."""
        return getattr(self.task, name)

    def by_split(self, score: Callable[[str], Mapping[str, float]]) -> dict[str, float]:
        """Scores of each scored split, given its name, under the names that they have for it; under
        their own where a task has one split.
        """
        if self.inference is not None and self.task.ood is self.task.id:
            return dict(score("id"))
        return {f"{key}_{name}": value for name in SCORED for key, value in score(name).items()}

    def with_truth(self, score: Callable[[str, Any, Any], Mapping[str, float]]) -> dict[str, float]:
        """`by_split`, of those splits whose true codes are known.

        Args:
          score: of the name of the split, its true codes and the inferred ones.
        """

        def known(name):
            truth = self.split(name).codes
            return {} if truth is None else score(name, truth, self.codes[name])

        return self.by_split(known)

    @property
    def unit_dictionary(
        self,
    ) -> tuple[Float[Array, "input_dim num_latents"], Float[Array, " num_latents"]]:
        """The dictionary with unit atoms, and the lengths that they had."""
        return self.once("unit_dictionary", lambda: jax.jit(unit_atoms)(self.model.decoder))

    @functools.cached_property
    def cuts(self) -> Float[np.ndarray, " num_latents"]:
        """For each latent the magnitude below which it counts as off, from the codes of the ID
        split alone.
        """
        return cuts(self.codes["id"])

    @property
    def match(self) -> Match | None:
        """The learned atoms matched with the true ones, or None where either is unknown."""
        learned, truth = self.model.dictionary, self.task.dictionary
        if learned is None or truth is None:
            return None
        return self.once("match", lambda: match_atoms(learned, truth))

    @property
    def nearest(self) -> Int[np.ndarray, " num_latents"]:
        """The true atom that each latent is taken to detect, of a model and a task that have
        dictionaries.
        """
        return self.once(
            "nearest", lambda: nearest_atoms(self.model.decoder, np.asarray(self.task.dictionary))
        )

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What was found of the model before under that name, or else is found now."""
        if name not in self.shared:
            self.shared[name] = find()
        return self.shared[name]


@dataclasses.dataclass(frozen=True)
class Metric:
    """Numbers of what a method inferred on a task; in a file of this folder it is found.

    Attributes:
      name: what rows are told apart by, with the version.
      measure: the numbers by their columns; those of a split end in "_id" or "_ood". It leaves out
        what the task or the model cannot tell.
      columns: how they are shown, by name without the split.
      version: raise it by hand when a change to the code changes the numbers.
      everywhere: whether every study measures it, unless it names its own.
      needs: what it lacks of what was inferred, in words; None where it can be measured.
    """

    name: str
    measure: Callable[[Inferred], Mapping[str, float | list[float]]]
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    version: int = 1
    everywhere: bool = True
    needs: Callable[[Inferred], str | None] = lambda inferred: None

    def __call__(self, inferred: Inferred) -> Mapping[str, float | list[float]]:
        return self.measure(inferred) if self.needs(inferred) is None else {}
