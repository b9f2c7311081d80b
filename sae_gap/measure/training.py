"""Fits on activations alone, of which nothing is scored."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.types import Split, Task
from sae_gap.learners.learner import Learner
from sae_gap.study.fitting import fit
from sae_gap.study.program import Fitted


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
