"""Rows with concepts as a source."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from sae_gap.core.rows import evenly_spaced
from sae_gap.core.types import Task
from sae_gap.data.held_out import HeldOut
from sae_gap.probing.concepts import Labelled
from sae_gap.storage.results import digest

# Rows on which encoders find what a requested L0 decides.
MATCHED = 2_000


@dataclasses.dataclass(frozen=True, eq=False)
class Probed(HeldOut):
    """Rows that are coded and probed, as `held_out`, beside those that learners see.

    Args:
      concepts: what is probed of all rows that are held out, by name. A requested L0 is a mean over
        2,000 of them, which alone count where the variance is explained.
    """

    concepts: Mapping[str, Labelled] = dataclasses.field(default_factory=dict)

    @property
    def counts(self) -> Bool[np.ndarray, " n"]:
        """Which of the rows count."""
        every = np.arange(len(self.scored))
        return np.isin(every, evenly_spaced(len(every), MATCHED))

    def task(self) -> Task:
        """What learners see, and what is probed."""
        return dataclasses.replace(super().task(), concepts=self.concepts)

    def asdict(self) -> dict[str, Any]:
        """What decides the data and what is probed of them."""
        leaves, structure = jax.tree.flatten(self.concepts)
        return super().asdict() | {"concepts": digest([*leaves, str(structure), *self.concepts])}
