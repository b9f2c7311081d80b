from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import compensated


@pytest.mark.parametrize("x64", [False, True])
def test_a_product_is_exact_where_its_terms_cancel(x64):
    """Half of the terms all but cancel the other half, which leaves a millionth of them."""
    with jax.enable_x64(x64):
        kind = np.float64 if x64 else np.float32
        left, right = np.random.default_rng(0).normal(size=(2, 7, 91)).astype(kind)
        left = np.concatenate([left, -left * (1 + kind(1e-6))], axis=1)
        right = np.concatenate([right, right], axis=1)
        plus = np.arange(7).astype(kind) / 7
        found = jax.jit(compensated.dot)(jnp.asarray(left), jnp.asarray(right), jnp.asarray(plus))
    for i in range(7):
        terms = zip(map(Fraction, left[i].tolist()), map(Fraction, right[i].tolist()), strict=True)
        exact = Fraction(float(plus[i])) + sum(a * b for a, b in terms)
        assert abs(Fraction(float(found[i])) - exact) <= 2 * np.finfo(kind).eps * abs(exact)
