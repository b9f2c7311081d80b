"""Looked-up codes come back for the very signals, in any order, and no others; the rest are optima
at the equivalent weight.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import encode
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.lookup import Lookup, LookupParameters


@pytest.fixture(scope="module")
def model(task):
    codes = np.random.default_rng(0).random((200, 20))
    known = jnp.concatenate([task.id.signals, task.ood.signals])
    return Model(
        task.dictionary * 2, jnp.zeros(12), LookupParameters(known, jnp.asarray(codes, jnp.float32))
    )


def test_known_signals_have_their_codes_whatever_their_order(model, task):
    codes = np.asarray(model.encoder.codes)
    np.testing.assert_array_equal(encode(Lookup(), model, task.id.signals), codes[:100])
    np.testing.assert_array_equal(encode(Lookup(), model, task.ood.signals), codes[100:])
    order = np.random.default_rng(1).permutation(200)[:100]
    np.testing.assert_array_equal(Lookup()(model, model.encoder.signals[order]), codes[order])


def test_a_signal_that_is_off_by_a_bit_is_another(model, task):
    near = task.id.signals.at[3, 5].set(jnp.nextafter(task.id.signals[3, 5], 1.0))
    found = np.asarray(Lookup(0.1)(model, near))
    known = np.arange(100) != 3
    np.testing.assert_array_equal(found[known], model.encoder.codes[:100][known])
    # 0.1 · 12 / (2 · 20)
    np.testing.assert_allclose(found[3], Lasso(0.03)(model, near[3:4])[0], atol=1e-5)


def test_zeros_of_either_sign_are_the_same_signal(task):
    known = np.zeros((200, 12), np.float32)
    codes = LookupParameters(known, np.full((200, 20), 0.5, np.float32))
    model = Model(task.dictionary, known[0], codes)
    assert (Lookup()(model, -known[:100]) == 0.5).all()
