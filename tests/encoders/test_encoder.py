"""What encoders share: unit atoms, random parameters, and models whose parts do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model, Transcoder
from sae_gap.encoders import (
    Affine,
    AmortisedEncoder,
    JumpReLU,
    JumpReLUParameters,
    TopK,
    check_model,
    unit_atoms,
)
from sae_gap.learners import Amortised, Oracle, SparseAutoencoder


def test_unit_atoms_are_columns_of_unit_length_and_zero_stays():
    dictionary = jnp.array([[3.0, 0.0, 1e-30], [4.0, 0.0, 0.0]])
    atoms, norms = unit_atoms(dictionary)
    np.testing.assert_allclose(atoms, [[0.6, 0, 1], [0.8, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(norms, [5, 1, 1e-30], rtol=1e-6)
    slope = jax.grad(lambda given: unit_atoms(given)[0].sum())(dictionary)
    np.testing.assert_allclose(slope[:, :2], [[0.032, 0], [-0.024, 0]], atol=1e-6)


class TwoLayers(AmortisedEncoder):
    """A square second layer, which starts at random."""

    def parameters(self, weight, key):
        return Affine.create(weight), Affine.create(jax.random.normal(key, (weight.shape[1],) * 2))

    def __call__(self, model, signals):
        first, second = model.encoder
        return jax.nn.relu(second(jax.nn.relu(first(signals - model.bias))))


def test_each_fit_and_each_of_its_encoders_draws_other_parameters(task):
    several = Amortised((TwoLayers(), TwoLayers()), base=Oracle(), num_steps=1)
    base = {"base": Model(task.dictionary, jnp.zeros(12))}
    for learner, given in ((SparseAutoencoder(TwoLayers(), num_steps=1), {}), (several, base)):
        layers = []
        for key in jax.random.split(jax.random.key(0)):
            state = learner.init(task.train, num_latents=20, key=key, **given)
            leaves = jax.tree.leaves(state.model.encoder)
            layers += [leaf.ravel() for leaf in leaves if leaf.shape == (20, 20)]
        assert len(layers) in (2, 4)
        assert np.abs(np.corrcoef(layers) - np.eye(len(layers))).max() < 0.3


WEIGHT, ZEROS = jnp.ones((4, 6)), jnp.zeros(4)
FITS = Model(WEIGHT, ZEROS, Affine(WEIGHT, jnp.zeros(6)), TopK(3))
READS = Transcoder(WEIGHT, ZEROS, Affine(WEIGHT[:3], jnp.zeros(6)), TopK(3), centre=jnp.zeros(3))
PARTS = JumpReLUParameters(FITS.encoder, jnp.zeros(1))
MISFITS = {
    "dictionary must be a non-empty matrix": {"dictionary": ZEROS},
    "bias must be 4 numbers, one for each dimension": {"bias": jnp.zeros(3)},
    "bias must be finite": {"bias": ZEROS.at[1].set(jnp.nan)},
    "encoder's weight must be finite": {
        "encoder": Affine(WEIGHT.at[0, 0].set(jnp.inf), jnp.zeros(6))
    },
    r"weight must have the shape \(4, 6\) .* transpose": {"encoder": Affine(WEIGHT.T, ZEROS)},
    "JumpReLU reads JumpReLUParameters from .*; give": {"encode": JumpReLU()},
    "log_threshold must have": {"encode": JumpReLU(), "encoder": PARTS},
    "centre must be finite": {"centre": jnp.full(3, jnp.nan)},
    r"skip must be of shape \(3, 4\)": {"skip": WEIGHT[:, :3]},
}


@pytest.mark.parametrize("fault", MISFITS)
def test_parts_that_do_not_fit_are_refused(fault):
    changes = MISFITS[fault]
    model = READS if changes.keys() & {"centre", "skip"} else FITS
    check_model(model)
    with pytest.raises(ValueError, match=fault):
        check_model(dataclasses.replace(model, **changes))
