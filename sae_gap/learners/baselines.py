"""Baselines that ignore sparsity: the signals themselves, their principal components, and random
atoms.
"""

import jax
import jax.numpy as jnp

from sae_gap.core import Model
from sae_gap.encoders import Affine, unit_atoms
from sae_gap.learners import Learner, live_dims, random_atoms


class Raw(Learner):
    """Takes the signals themselves as codes, of the signals' width; there is no dictionary. Its
    encoder is `Linear`.
    """

    label = "raw signals"
    colour = "#BBBBBB"
    rank = 1
    family = "baseline"

    def init(self, data, *, num_latents, key):
        return jnp.eye(data.signals.shape[1], dtype=data.signals.dtype)

    def model(self, state):
        return Model(None, jnp.zeros(state.shape[0], state.dtype), Affine.create(state))


class PCA(Learner):
    """Principal components of the training signals: `z = Vᵀ (y - ȳ)`, signed, with the components V
    as atoms and ȳ as bias.

    V are the leading right singular vectors of the centred signals: at most num_latents, and at
    most as many as dimensions or samples. Its encoder is `Linear`.
    """

    label = "PCA"
    colour = "#888888"
    rank = 2
    family = "baseline"

    def init(self, data, *, num_latents, key):
        mean = jnp.mean(data.signals, axis=0)
        components = jnp.linalg.svd(data.signals - mean, full_matrices=False)[2]
        live = live_dims(data.signals)[:, None]
        return mean, jnp.where(live, components[:num_latents].T, 0)

    def model(self, state):
        mean, components = state
        return Model(components, mean, Affine.create(components))


class Samples(Learner):
    """Takes random training signals less their mean, at unit length, as atoms, and their mean as
    bias.
    """

    label = "training samples"
    colour = "#999999"
    family = "baseline"

    def needs(self, task):
        found = len(task.train.signals)
        return None if found >= task.width else f"{task.width} training samples for as many atoms"

    def init(self, data, *, num_latents, key):
        mean = jnp.mean(data.signals, axis=0)
        chosen = jax.random.choice(key, len(data.signals), (num_latents,), replace=False)
        return unit_atoms((data.signals[jnp.sort(chosen)] - mean).T)[0], mean

    def model(self, state):
        return Model(*state)


class Random(Learner):
    """Takes unit atoms in random directions, and the mean of the training signals as bias."""

    label = "random atoms"
    colour = "#BBBBBB"
    family = "baseline"

    def init(self, data, *, num_latents, key):
        return random_atoms(key, data.signals, num_latents), jnp.mean(data.signals, axis=0)

    def model(self, state):
        return Model(*state)
