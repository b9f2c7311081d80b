"""What is learned from activations: their rows, and fits without scores."""

import dataclasses
import itertools
import math
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core import Model, Split, Task, check_choice, check_number
from sae_gap.data import Activations, open_activations
from sae_gap.encoders import DENSEST
from sae_gap.learners import Learner, OnlineDictionary, total_visits
from sae_gap.storage import Checkpoint
from sae_gap.study import Fitted, fit, fit_stream

# The least shift between one round of a stream and the next, in hundredths of the distance between
# two rows of a round: even with few rows, consecutive rounds differ.
STRIDE = 61

Rows = Activations | ArrayLike | str | os.PathLike[str]
"""What a user gives as activations: rows, the path of a file or folder of them, or opened ones."""


def open_rows(
    activations: Rows,
    *,
    documents: ArrayLike | None = None,
    targets: Rows | None = None,
    outliers: str = "drop",
) -> tuple[Activations | None, Activations]:
    """Opens copies of what a transcoder reads, if there are targets, and of what is explained,
    without outliers if they are dropped.
    """
    inputs, explained = None, activations
    if targets is not None:
        inputs, explained = open_activations(activations).copied(), targets
    rows = open_activations(explained, documents=documents).copied()
    return inputs, screened(rows if inputs is None else rows.with_inputs(inputs), outliers)


def screened(activations: Activations, policy: str) -> Activations:
    """Reports outliers, and returns the rows that a policy keeps."""
    check_choice("outliers", policy, ("drop", "keep"))
    if len(activations.outliers.rows):
        logging.warning("%s; %s", activations.outliers, "left out" if policy == "drop" else "kept")
    return activations.without_outliers() if policy == "drop" else activations


def fit_rows(
    learner: OnlineDictionary,
    rows: Activations,
    width: int,
    seed: int,
    *,
    checkpoint: Checkpoint | None,
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
        learner = dataclasses.replace(learner, visits=None)
        share, rounds = int(np.prod(learner.minibatches(total, width))), learner.num_steps
        return fit_stream(
            learner,
            spread(rows, rounds, share),
            num_latents=width,
            num_samples=total,
            key=seed,
            checkpoint=checkpoint,
            show_progress=show_progress,
        )
    options: dict[str, Any] = {"show_progress": show_progress}
    if checkpoint is not None:
        named = checkpoint.named(f"{width} of {checkpoint.fit}, seed {seed}, {learner}")
        options["checkpoints"] = [named]
    return fit_signals(learner, rows.pool(), width, seed, **options).model


def spread(rows: Activations, rounds: int, share: int) -> Any:
    """Returns a source for a stream: each round samples `share` rows across the whole file, and
    over the fit every row is used equally often.
    """
    # It must be coprime to the rounds: otherwise some rounds would have the same rows.
    stride = next(n for n in itertools.count(STRIDE) if math.gcd(n, rounds) == 1)

    def source(start, count):
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
    train, nothing = (Split(jnp.asarray(part, float)) for part in (signals, signals[:1]))
    if inputs is not None:
        train = dataclasses.replace(train, inputs=jnp.asarray(inputs, float))
    # Nothing of the task is scored.
    task = Task(train, nothing, nothing, width=int(width))
    return fit(learner, [task], [seed], **options)[0].end


def check_sparse(name: str, value: float, input_dim: int, width: int) -> None:
    """Raises a ValueError if codes with so many latents are not sparse, which no measurement
    allows.
    """
    check_number(name, value, above=0)
    most = min(DENSEST * input_dim, width - 1)
    if value > most:
        why = f"a quarter of the {input_dim} dimensions and fewer than the {width} atoms"
        raise ValueError(
            f"{name} is {value:g}, but codes are sparse only up to {most:g}, {why}; ask for less."
        )
