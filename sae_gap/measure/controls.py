"""Dictionaries that any SAE should beat, of the same width: what is cheap to have from the activations alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.checks import check_unmasked
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.baselines import Random
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.study.fitting import fit

# Activations that the learner codes for each atom, each of them more than once where there are fewer.
LEAST_VISITS = 30


class _Given(NamedTuple):
    signals: Float[np.ndarray, "n input_dim"]
    num_latents: int
    key: PRNGKeyArray
    watch: Callable[[float], None] | None


class Control(NamedTuple):
    """A kind of dictionary.

    Attributes:
      make: of training activations, with unit atoms.
      fewest: training samples that a number of atoms needs.
      work: multiply-adds that it takes to learn from so many samples, of so many dimensions, so many atoms, about.
    """

    make: Callable[[_Given], Model]
    fewest: Callable[[int], int] = lambda num_latents: 1
    work: Callable[[int, int, int], float] = lambda num_samples, input_dim, num_latents: 0.0


def _random(given: _Given) -> Model:
    learner = Random()
    return learner.model(learner.init(Split(jnp.asarray(given.signals)), num_latents=given.num_latents, key=given.key))


def _samples(given: _Given) -> Model:
    mean = given.signals.mean(axis=0)
    chosen = jax.random.choice(given.key, len(given.signals), (given.num_latents,), replace=False)
    return Model(unit_atoms(jnp.asarray(given.signals[np.sort(np.asarray(chosen))] - mean).T)[0], jnp.asarray(mean))


def _learner(num_samples: int, num_latents: int) -> OnlineDictionary:
    return OnlineDictionary(centred=True, visits=max(LEAST_VISITS, num_samples / num_latents))


def _online(given: _Given) -> Model:
    learner = _learner(len(given.signals), given.num_latents)
    split = Split(jnp.asarray(given.signals))
    nothing = Split(split.signals[:1])
    task = Task(split, nothing, nothing, width=given.num_latents)
    watch = given.watch
    told = None if watch is None else lambda _, step: watch(step / learner.num_steps)
    return fit(learner, [task], [given.key], watch=told)[0].end.model


def _online_work(num_samples: int, input_dim: int, num_latents: int) -> float:
    return _learner(num_samples, num_latents).work(num_samples, input_dim, num_latents)


# The dictionaries that a subject is held against, by name. A new one is a function here and a line; its label and colour are in
# `sae_gap.figures.labels`.
CONTROLS = {
    "random": Control(_random),
    "samples": Control(_samples, fewest=lambda num_latents: num_latents),
    "online_dl": Control(_online, work=_online_work),
}


def control(
    name: str,
    signals: Float[np.ndarray, "n input_dim"],
    num_latents: int,
    seed: int = 0,
    watch: Callable[[float], None] | None = None,
) -> Model:
    """A control dictionary. Its bias is the mean of the training activations.

    "random" draws unit atoms at random, "samples" takes training activations less their mean for atoms, and "online_dl"
    learns a dictionary of them with `OnlineDictionary`, in one pass, or in as many as make `LEAST_VISITS` activations an
    atom.

    Args:
      name: one of `CONTROLS`.
      signals: training activations, (n, input_dim), none of those that the control is measured on.
      num_latents: atoms.
      seed: of whatever is drawn.
      watch: called with the share of a fit that is done.

    Returns:
      A model without an encoder.

    Raises:
      ValueError: the name is unknown, or there are too few training activations.
    """
    check_control(name, len(signals), num_latents)
    check_unmasked("signals", signals)
    return CONTROLS[name].make(_Given(np.asarray(signals, np.float32), num_latents, jax.random.key(seed), watch))


def check_control(name: str, num_samples: int, num_latents: int) -> None:
    """Raises a ValueError where a control is unknown, or needs more training activations than there are."""
    if name not in CONTROLS:
        raise ValueError(f"control {name!r} is unknown; choose from {', '.join(CONTROLS)}.")
    fewest = CONTROLS[name].fewest(num_latents)
    if num_samples < fewest:
        raise ValueError(
            f"{num_latents} atoms need {fewest} training samples, but there are {num_samples}; "
            f"leave the control {name} out, or give more activations."
        )


__all__ = ["CONTROLS", "Control", "check_control", "control"]
