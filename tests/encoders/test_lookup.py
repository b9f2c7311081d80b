"""Looked-up codes come back for the very signals, in any order, and no others; the rest are optima
at the equivalent weight.
"""

import jax.numpy as jnp
import numpy as np

from sae_gap.core import Model
from sae_gap.encoders import Lasso, Lookup, LookupParameters


def test_known_signals_have_their_codes_and_others_the_lasso_s(task):
    rng = np.random.default_rng(0)
    # A dimension of zeros is padding, of either sign.
    y = jnp.pad(task.id.signals, ((0, 0), (0, 1)))
    codes = jnp.asarray(rng.random((100, 20)), jnp.float32)
    atoms = jnp.pad(2 * task.dictionary, ((0, 1), (0, 0)))
    model = Model(atoms, jnp.full(13, 0.1).at[12].set(0), LookupParameters(y, codes))
    order = rng.permutation(100)
    asked = y[order].at[:, 12].set(-0.0)
    np.testing.assert_array_equal(Lookup()(model, asked), codes[order])
    near = asked.at[3, 5].set(jnp.nextafter(asked[3, 5], 9.0))
    # 0.1 · 12 / (2 · 20)
    expected = codes[order].at[3].set(Lasso(0.03)(model, near[3:4])[0])
    np.testing.assert_allclose(Lookup(0.1)(model, near), expected, atol=1e-5)
