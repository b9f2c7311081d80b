"""Fits on activations alone, of which nothing is scored."""

import dataclasses
import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.types import Model, Split, Task
from sae_gap.data.activations import Activations
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.gradient_sums import total_visits
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.storage.trees import Checkpoint
from sae_gap.study.fitting import fit
from sae_gap.study.program import Fitted
from sae_gap.study.stream import fit_stream

# The least distance from the rows of one round of a stream to those of the next, in hundredths of
# the way between two rows of a round: of few rows, rounds that follow each other have others.
STRIDE = 61


def fit_rows(
    learner: OnlineDictionary | Families,
    rows: Activations,
    width: int,
    seed: int,
    *,
    base: Model | None = None,
    checkpoint: Checkpoint | None,
    show_progress: bool,
) -> Model:
    """A dictionary of activations: in memory where they fit there, and else, of `online_dl` and of
    families, out of their files.

    Args:
      learner: how to learn.
      rows: to learn from.
      width: atoms to learn.
      seed: of the fit.
      base: the model of the learner's base, of families.
      checkpoint: where its state is kept, and found after a kill; its `fit` tells the rows.
      show_progress: whether to show a line of progress.
    """
    if rows.num_pooled < rows.num_samples:
        if isinstance(learner, OnlineDictionary):
            total = total_visits(learner.visits, width)  # type: ignore[arg-type]
            learner = dataclasses.replace(learner, visits=None)
            share, rounds = int(np.prod(learner.minibatches(total, width))), learner.num_steps
        else:
            # No row twice before all were there.
            _, share = learner.minibatches(rows.num_samples, width)
            rounds = math.ceil(rows.num_samples / share)
            total = rounds * share
        return fit_stream(
            learner,
            spread(rows, rounds, share),
            num_latents=width,
            num_samples=total,
            key=seed,
            base=base,
            checkpoint=checkpoint,
            show_progress=show_progress,
        )
    saves = None
    if checkpoint is not None:
        saves = [checkpoint.named(f"{width} of {checkpoint.fit}, seed {seed}, {learner}")]
    options = {"bases": base and [base], "checkpoints": saves, "show_progress": show_progress}
    return fit_signals(learner, rows.pool(), width, seed, **options).model


def spread(rows: Activations, rounds: int, share: int) -> Any:
    """A source of a stream whose rounds have `share` rows each, from all over, and all rows alike
    often.
    """
    # Coprime to the rounds: else some rounds have the same rows.
    stride = next(n for n in itertools.count(STRIDE) if math.gcd(n, rounds) == 1)

    def source(start: int, count: int) -> Float[np.ndarray, "count input_dim"]:
        turn, place = np.divmod(np.arange(start, start + count), share)
        number = place * rounds + turn * stride % rounds
        return rows.take(number * rows.num_samples // (share * rounds))

    return source


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
    return fit(learner, [as_task(signals, width)], [seed], **options)[0].end


def as_task(signals: Float[np.ndarray, "n input_dim"], width: int) -> Task:
    """What a learner of as many atoms is fitted to, of which nothing is scored."""
    train, nothing = (Split(jnp.asarray(part, float)) for part in (signals, signals[:1]))
    return Task(train, nothing, nothing, width=int(width))
