"""Dictionary surgery: another learner's atoms, scaled to other lengths."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from sae_gap.core import Task, match_atoms, option
from sae_gap.encoders import unit_atoms
from sae_gap.learners import HostLearner, base_of


class Surgery(HostLearner):
    """Returns its base's model with atoms of other lengths; directions, bias and encoder stay.

    Args:
      columns: "renormed" scales each atom to unit length, and "oracle_norms" to the length of its
        true match, by `max_π Σ_j |cos(d_π(j), a_j)|`; an atom without a match keeps its length.
      base: the learner whose model it scales.
    """

    columns: str = option(default="renormed", choices=("renormed", "oracle_norms"))

    def __check_init__(self):
        base_of(self)

    @property
    def name(self):  # type: ignore[override]
        return base_of(self).name

    @property
    def coordinates(self):
        return base_of(self).coordinates | {"columns": self.columns}

    @property
    def encode(self):
        return base_of(self).encode

    def needs(self, task: Task) -> str | None:
        if self.columns == "oracle_norms" and task.dictionary is None:
            return "the true dictionary"
        return super().needs(task)

    def select(self, task):
        return task.dictionary if self.columns == "oracle_norms" else None

    def learn(self, data, *, num_latents, key, base=None):
        atoms, lengths = unit_atoms(base.decoder)
        if data is None:
            return dataclasses.replace(base, dictionary=atoms, encode=self.encode)
        partner = match_atoms(base.decoder, data).learned
        paired, truth = partner >= 0, np.asarray(data)
        wanted = np.array(lengths)
        wanted[partner[paired]] = np.linalg.norm(truth[:, paired], axis=0)
        return dataclasses.replace(base, dictionary=atoms * jnp.asarray(wanted), encode=self.encode)
