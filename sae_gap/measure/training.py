"""Fits on activations alone, of which nothing is scored: what `learn` and the control `online_dl`
share.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.types import Split, Task
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.gradient_sums import total_visits
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.study.fitting import fit
from sae_gap.study.program import Fitted

# Rows that a dictionary is learned from for each of its atoms, each of them more than once where
# there are fewer.
VISITS = 150.0


def learn_atoms(
    signals: Float[np.ndarray, "n input_dim"],
    width: int,
    l0: float,
    seed: int | PRNGKeyArray,
    *,
    visits: float = VISITS,
    **options: Any,
) -> Fitted:
    """A dictionary of activations by `OnlineDictionary.for_activations`; the arguments are those of
    `learn` and of `fit_signals`.
    """
    learner = OnlineDictionary.for_activations(width, l0, signals.shape[1], visits=visits)
    return fit_signals(learner, signals, width, seed, **options)


def visited(width: int) -> int:
    """Rows that `learn_atoms` codes in the whole fit unless it is told otherwise."""
    return total_visits(VISITS, width)


def fit_signals(
    learner: Learner,
    signals: Float[np.ndarray, "n input_dim"],
    width: int,
    seed: int | PRNGKeyArray,
    **options: Any,
) -> Fitted:
    """The end of a fit of a learner to signals.

    Args:
      learner: what to fit.
      signals: (n, input_dim).
      width: atoms to learn.
      seed: of the fit, an integer or a random key.
      **options: of `fit`.
    """
    train, nothing = (Split(jnp.asarray(part, float)) for part in (signals, signals[:1]))
    return fit(learner, [Task(train, nothing, nothing, width=int(width))], [seed], **options)[0].end
