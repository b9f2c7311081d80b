"""A model that several encoders code on."""

import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from pytest import fixture

from sae_gap.core import Model
from sae_gap.encoders import Affine


@fixture(scope="module")
def model(task):
    """Atoms of many lengths, a bias, and an encoder."""
    rng = default_rng(0)
    dictionary = np.asarray(task.dictionary) * rng.uniform(0.3, 3, 20)
    weight = Affine(jnp.float32(rng.normal(size=(12, 20))), jnp.zeros(20))
    return Model(
        jnp.float32(dictionary),
        jnp.float32(0.1 * rng.normal(size=12)),
        weight,
    )


@fixture(scope="module")
def signals(task):
    return task.id.signals
