"""A model that is given is told by its numbers and its codes, not by its name."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model
from sae_gap.encoders import Affine, TopK
from sae_gap.learners import Given, Held

ATOMS = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
ATOMS[:, 3] = 0


def model(scale=1.0, encode=None):
    weight = Affine(jnp.asarray(ATOMS + 1), jnp.ones(20))
    return Model(jnp.asarray(scale * ATOMS), jnp.zeros(12), weight, encode or TopK(4))


def function(share, threshold=0.0):
    def encode(model, signals):
        return share * np.maximum(signals @ np.asarray(model.decoder) - threshold, 0)

    return encode


@pytest.mark.parametrize("make", [lambda: model(2.0), lambda: model(encode=TopK(3))])
def test_another_model_is_another_learner(make):
    one, same, other = (Given(Held(each), "mine") for each in (model(), model(), make()))
    assert one == same and hash(one) == hash(same) and one != other
    # The name is a label of rows that may be there.
    assert Given(one.held, "other").described() == same.described() != other.described()


@pytest.mark.parametrize("threshold", [0, 200])
def test_functions_of_one_name_are_told_by_their_codes(threshold):
    one, same, other = (
        Held(model(encode=function(share, threshold))).digest for share in (1, 1, 2)
    )
    assert one == same != other


def test_the_code_of_an_atom_of_zeros_is_zero():
    signals = jnp.asarray(np.ones((5, 12), np.float32))
    for encode in (TopK(20), function(1)):
        given = Given(Held(model(encode=encode)), "mine")
        codes = np.asarray(given.encode.infer(given.ready, signals).codes)
        assert np.all(codes[:, 3] == 0) and np.any(codes != 0)
