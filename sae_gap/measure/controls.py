"""Dictionaries of the same width that an SAE is held against, made of the activations alone."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.types import Model, Split
from sae_gap.data.activations import Activations
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.baselines import Random
from sae_gap.measure.rows import pool
from sae_gap.measure.training import learn_atoms, visited
from sae_gap.saes.loaded_sae import SAE


class Control(NamedTuple):
    """A kind of dictionary.

    Attributes:
      make: given training activations, a number of atoms, a mean L0 and a random key, a model with
        unit atoms.
      fewest: training samples that a number of atoms needs.
      visits: samples that it codes to learn so many atoms, each of them more than once where there
        are fewer.
    """

    make: Callable[[Float[np.ndarray, "n input_dim"], int, float, PRNGKeyArray], Model]
    fewest: Callable[[int], int] = lambda num_latents: 1
    visits: Callable[[int], int] = lambda num_latents: 0


def _random(signals, num_latents, l0, key):
    return Random().model(
        Random().init(Split(jnp.asarray(signals)), num_latents=num_latents, key=key)
    )


def _samples(signals, num_latents, l0, key):
    mean = signals.mean(axis=0)
    chosen = jax.random.choice(key, len(signals), (num_latents,), replace=False)
    return Model(
        unit_atoms(jnp.asarray(signals[np.sort(np.asarray(chosen))] - mean).T)[0], jnp.asarray(mean)
    )


def _online(signals, num_latents, l0, key):
    return learn_atoms(signals, num_latents, l0, key).model


# The dictionaries that a subject is held against, by name, the best first. A new one is a function
# here and a line; its label and colour are in `sae_gap.figures.labels`.
CONTROLS = {
    "online_dl": Control(_online, visits=visited),
    "samples": Control(_samples, fewest=lambda num_latents: num_latents),
    "random": Control(_random),
}


def control(
    name: str, signals: Float[np.ndarray, "n input_dim"], num_latents: int, l0: float, seed: int = 0
) -> Model:
    """A control dictionary. Its bias is the mean of the training activations.

    "random" draws unit atoms at random, "samples" takes training activations less their mean for
    atoms, and "online_dl" is what `learn` gives of rows that memory holds.

    Args:
      name: one of `CONTROLS`.
      signals: training activations, (n, input_dim), none of those that the control is measured on.
      num_latents: atoms.
      l0: mean L0 at which the dictionary is to be used.
      seed: of whatever is drawn.

    Returns:
      A model without an encoder.

    Raises:
      ValueError: the name is unknown, or there are too few training activations.
    """
    check_control(name, len(signals), num_latents)
    return CONTROLS[name].make(
        np.asarray(signals, np.float32), num_latents, l0, jax.random.key(seed)
    )


def control_sae(name: str, train: Activations, first: SAE, l0: float, seed: int) -> SAE:
    """A control with as many atoms as an SAE, and codes of its signs, made of training
    activations.
    """
    sae = SAE.of_model(control(name, pool(train), first.num_latents, l0, seed), name=name)
    return dataclasses.replace(sae, signed=first.signed, role="control")


def check_control(name: str, num_samples: int, num_latents: int) -> None:
    """Raises a ValueError where a control is unknown, or needs more training activations than there
    are.
    """
    if name not in CONTROLS:
        raise ValueError(f"control {name!r} is unknown; choose from {', '.join(CONTROLS)}.")
    fewest = CONTROLS[name].fewest(num_latents)
    if num_samples < fewest:
        raise ValueError(
            f"{num_latents} atoms need {fewest} training samples, but there are {num_samples}; "
            f"leave the control {name} out, or give more activations."
        )
