"""The oracle, which is given the true dictionary."""

import jax.numpy as jnp

from sae_gap.core import Model, Task, option
from sae_gap.learners import Learner


class Oracle(Learner):
    """Learns nothing: its model is the true dictionary without a bias. Its score is the ceiling for
    inference at this λ.

    Args:
      leading: whether to know only the first atoms, as many as a learner has.
    """

    label = "oracle"
    colour = "#000000"
    family = "oracle"

    leading: bool = option(default=False)

    def needs(self, task: Task) -> str | None:
        return "the true dictionary" if task.dictionary is None else None

    def select(self, task):
        return task.dictionary

    def init(self, data, *, num_latents, key):
        return data[:, :num_latents] if self.leading else data

    def model(self, state):
        return Model(state, jnp.zeros(state.shape[0], state.dtype))
