"""Codes on another encoder's support: optima by their conditions, least squares against NumPy's
lstsq.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.encoders import Encoder, LeastSquares, MatchingPursuit, OnSupport, TopK
from tests.encoders.test_lasso import LAM, check_optimal, framed
from tests.solvers.test_least_squares import by_lstsq


class Dense(Encoder):
    """Nearly all latents on, whatever the signal."""

    def __call__(self, model, signals):
        draws = jax.random.uniform(jax.random.key(1), (len(signals), model.decoder.shape[1]))
        return jnp.where(draws < 0.9, draws, 0)


@pytest.fixture(scope="module", params=[TopK(3), MatchingPursuit(3), Dense()], ids=str)
def encoder(request):
    return request.param


def test_the_values_are_the_best_on_the_support(model, signals, encoder):
    begun = encoder(model, signals)
    found = OnSupport(encoder, LAM).infer(model, signals, begun)
    check_optimal(framed(model, signals), found, np.abs(begun) > 1e-4)


@pytest.mark.parametrize("make", [OnSupport, LeastSquares])
def test_a_latent_is_on_above_the_published_threshold(model, signals, make):
    begun = jnp.zeros((len(signals), 20)).at[:, 6:9].set(jnp.array([1e-4, 1.1e-4, -1.1e-4]))
    codes = np.asarray(make(Dense()).infer(model, signals, begun).codes)
    assert {*np.flatnonzero(codes.any(axis=0))} == {7, 8}


def test_least_squares_against_numpy_sample_by_sample(model, signals, encoder):
    begun = encoder(model, signals)
    found = LeastSquares(encoder).infer(model, signals, begun)
    on = np.abs(np.asarray(begun)) > 1e-4
    target, atoms, _ = framed(model, signals, unit=False)
    expected = by_lstsq(target, atoms, on)
    assert (expected < 0).any() and not hasattr(found, "gap")
    free = OnSupport(encoder, 0.0, nonneg=False).infer(model, signals, begun)
    assert (np.asarray(free.codes) < 0).any() and not hasattr(free, "gap")
    # Single precision cannot solve what is as good as dependent.
    fine = np.array([not where.any() or np.linalg.cond(atoms[:, where]) < 300 for where in on])
    error = np.abs(found.codes - expected.clip(0))[fine].max()
    assert fine.mean() > 0.9 and error < 5e-3 * np.abs(expected[fine]).max()
