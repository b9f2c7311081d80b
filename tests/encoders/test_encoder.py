"""What encoders share: unit atoms, and models whose parts do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model, Transcoder
from sae_gap.encoders import Affine, JumpReLU, JumpReLUParameters, TopK, check_model, unit_atoms


def test_unit_atoms_are_columns_of_unit_length_and_zero_stays():
    dictionary = jnp.array([[3.0, 0.0, 1e-30], [4.0, 0.0, 0.0]])
    atoms, norms = unit_atoms(dictionary)
    np.testing.assert_allclose(atoms, [[0.6, 0, 1], [0.8, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(norms, [5, 1, 1e-30], rtol=1e-6)
    slope = jax.grad(lambda given: unit_atoms(given)[0].sum())(dictionary)
    np.testing.assert_allclose(slope[:, :2], [[0.032, 0], [-0.024, 0]], atol=1e-6)


WEIGHT, ZEROS = jnp.ones((4, 6)), jnp.zeros(4)
FITS = Model(WEIGHT, ZEROS, Affine(WEIGHT, jnp.zeros(6)), TopK(3))
READS = Transcoder(WEIGHT, ZEROS, Affine(WEIGHT[:3], jnp.zeros(6)), TopK(3), centre=jnp.zeros(3))
PARTS = JumpReLUParameters(FITS.encoder, jnp.zeros(1))
MISFITS = {
    "dictionary must be a non-empty matrix": {"dictionary": ZEROS},
    r"bias must be of shape \(4,\)": {"bias": jnp.zeros(3)},
    "bias must be finite": {"bias": ZEROS.at[1].set(jnp.nan)},
    "the encoder.s affine map must be finite": {
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
