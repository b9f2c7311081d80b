"""Rows with concepts as a source."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from sae_gap.core import Task, evenly_spaced
from sae_gap.data import HeldOut
from sae_gap.probing import Labelled
from sae_gap.storage import digest

# Rows on which encoders find parameters for a requested L0.
MATCHED = 2_000


@dataclasses.dataclass(frozen=True, eq=False)
class Probed(HeldOut):
    """Rows to code and probe, as `held_out`, beside those for the learners.

    Args:
      concepts: the concepts to probe on all held-out rows, by name. A requested L0 is a mean over
        2,000 of these rows; only they count for the explained variance.
    """

    concepts: Mapping[str, Labelled] = dataclasses.field(default_factory=dict)

    @property
    def counts(self) -> Bool[np.ndarray, " n"]:
        """True for the rows that count, (n,)."""
        every = np.arange(len(self.scored))
        return np.isin(every, evenly_spaced(len(every), MATCHED))

    def task(self) -> Task:
        """The rows for the learners, and those to probe with their concepts."""
        return dataclasses.replace(super().task(), concepts=self.concepts)

    def asdict(self) -> dict[str, Any]:
        """The settings that decide the data and what is probed."""
        leaves, structure = jax.tree.flatten(self.concepts)
        return super().asdict() | {"concepts": digest([*leaves, str(structure), *self.concepts])}
