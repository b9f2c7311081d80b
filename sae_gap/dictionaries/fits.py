"""Fits of learners to rows: in memory, or from their files."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core import Model, Split, Task
from sae_gap.data import Activations
from sae_gap.learners import Learner, OnlineDictionary, total_visits
from sae_gap.storage import trees
from sae_gap.study import Fitted, fit, fit_stream

# The least shift between one round of a stream and the next, in hundredths of the distance between
# two rows of a round: even with few rows, consecutive rounds differ.
STRIDE = 61


def fit_rows(
    learner: OnlineDictionary,
    rows: Activations,
    width: int,
    seed: int,
    *,
    checkpoint: trees.Checkpoint | None,
    show_progress: bool,
) -> Model:
    """Learns a dictionary of activations: in memory if the rows fit there, and otherwise from
    their files.

    Args:
      learner: the learner to fit.
      rows: the rows to learn from.
      width: number of atoms to learn.
      seed: seeds the fit.
      checkpoint: stores the state, and finds it after a kill; its `fit` names the rows.
      show_progress: whether to show a line of progress.
    """
    if rows.num_pooled < rows.num_samples:
        total = total_visits(learner.visits, width)  # type: ignore[arg-type]
        learner = replace(learner, visits=None)
        share = int(np.prod(learner.minibatches(total, width)))
        return fit_stream(
            learner,
            spread(rows, learner.num_steps, share),
            num_latents=width,
            num_samples=total,
            key=seed,
            checkpoint=checkpoint,
            show_progress=show_progress,
        )
    checkpoints = None
    if checkpoint:
        name = f"{width} of {checkpoint.fit}, seed {seed}, {learner}"
        checkpoints = [checkpoint.named(name)]
    return fit_signals(
        learner,
        rows.pool(),
        width,
        seed,
        checkpoints=checkpoints,
        show_progress=show_progress,
    ).model


def spread(
    rows: Activations, rounds: int, share: int
) -> Callable[[int, int], np.ndarray]:
    """Returns a source for a stream: each round samples `share` rows across the whole file, and
    over the fit every row is used equally often.
    """
    # It must be coprime to the rounds: otherwise some rounds would have the same rows.
    stride = STRIDE
    while math.gcd(stride, rounds) > 1:
        stride += 1

    def source(start: int, count: int) -> np.ndarray:
        turn, place = np.divmod(np.arange(start, start + count), share)
        number = place * rounds + turn * stride % rounds
        return rows.take(number * rows.num_samples // (share * rounds))

    return source


def fit_signals(
    learner: Learner,
    signals: Float[np.ndarray, "n input_dim"],
    width: int,
    seed: int | PRNGKeyArray,
    inputs: Float[np.ndarray, "n num_inputs"] | None = None,
    **options: Any,
) -> Fitted:
    """Fits a learner to signals and returns the end of the fit.

    Args:
      learner: the learner to fit.
      signals: (n, input_dim).
      width: number of atoms to learn.
      seed: the seed of the fit, an integer or a random key.
      inputs: what a transcoder reads.
      **options: options of `fit`.
    """
    read = None if inputs is None else jnp.asarray(inputs, float)
    train = Split(jnp.asarray(signals, float), inputs=read)
    # The other two splits are not scored.
    task = Task(train, train, train, width=width)
    return fit(learner, [task], [seed], **options)[0].end
