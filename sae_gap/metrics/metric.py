"""What a metric may look at: the codes that one method inferred on one task, and the certified optimum beside them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from sae_gap.core.codes import SparseCodes
from sae_gap.core.matching import Match, match_atoms
from sae_gap.core.types import Model, Solution, Split, Task
from sae_gap.encoders.encoder import unit_atoms

# The splits that metrics score.
SCORED = ("id", "ood")


@dataclasses.dataclass(frozen=True)
class Inferred:
    """One method's result on one task.

    Attributes:
      task: the task, its truth included where it is known.
      model: what was learned.
      codes: of the splits "id" and "ood", and of "train" where its true codes are known, in units of the model's atoms; dense,
        as `Codes` if there are very many latents, or sparse if there are very many samples.
      optimum: certified lasso solutions of "id" and "ood" on the model's dictionary with unit atoms, over signed codes if
        `codes` are signed and over non-negative ones if not; empty without a dictionary, and where the study does without.
      lam: the weight of the l1 norm in `optimum`.
      protocol: "strict" or "paper".
      shared: what was found of the model before, for all that is inferred on it.
    """

    task: Task
    model: Model
    codes: Mapping[str, Float[np.ndarray, "n num_latents"] | SparseCodes]
    optimum: Mapping[str, Solution]
    lam: float
    protocol: str
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)

    def split(self, name: str) -> Split:
        """The task's split of that name."""
        return getattr(self.task, name)

    @property
    def unit_dictionary(self) -> tuple[Float[Array, "input_dim num_latents"], Float[Array, " num_latents"]]:
        """The dictionary with unit atoms, and the lengths that they had."""
        return self._once("unit_dictionary", lambda: unit_atoms(self.model.decoder))

    @property
    def match(self) -> Match | None:
        """The learned atoms matched with the true ones, or None where either is unknown."""
        learned, truth = self.model.dictionary, self.task.dictionary
        if learned is None or truth is None:
            return None
        return self._once("match", lambda: match_atoms(learned, truth))

    def _once(self, name: str, find: Callable[[], Any]) -> Any:
        if name not in self.shared:
            self.shared[name] = find()
        return self.shared[name]


# A metric names its values; those of a split end in "_id" or "_ood". It leaves out what the task or the model cannot tell.
Metric = Callable[[Inferred], Mapping[str, float | list[float]]]
