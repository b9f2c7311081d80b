"""The linear encoder: signed codes and nothing thinned."""

import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.linear import Linear


def test_codes_are_an_affine_map_of_what_the_bias_leaves():
    rng = np.random.default_rng(0)
    weight, shift, bias, signals = (rng.normal(size=shape) for shape in ((4, 6), 6, 4, (5, 4)))
    codes = Linear()(
        Model(None, jnp.asarray(bias), Affine(jnp.asarray(weight), jnp.asarray(shift))),
        jnp.asarray(signals),
    )
    np.testing.assert_allclose(codes, (signals - bias) @ weight + shift, rtol=1e-4, atol=1e-5)
    assert (np.asarray(codes) < 0).any()
