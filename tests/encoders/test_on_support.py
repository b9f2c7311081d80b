"""Codes on another encoder's support: optima against SciPy's bounded least squares, least squares
against NumPy's lstsq.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from sae_gap.core import lasso_problem
from sae_gap.encoders import Encoder, LeastSquares, MatchingPursuit, OnSupport, TopK, unit_atoms
from tests.solvers.test_least_squares import by_lstsq

LAM = 0.05


class Dense(Encoder):
    """Nearly all latents on, whatever the signal."""

    def __call__(self, model, signals):
        draws = jax.random.uniform(jax.random.key(1), (len(signals), model.decoder.shape[1]))
        return jnp.where(draws < 0.9, draws, 0)


@pytest.fixture(scope="module", params=[TopK(3), MatchingPursuit(3), Dense()], ids=str)
def encoder(request):
    return request.param


def best_on(signal, atoms, on, lam):
    """By nnls: `½‖y - D z‖² + λ 1ᵀz` has the gradient of `½‖y' - D' z‖²` with `D'ᵀD' = DᵀD + ε` and
    `D'ᵀy' = Dᵀy - λ`.
    """
    own = atoms[:, on]
    if not on.any():
        return 0.5 * signal @ signal
    root = np.linalg.cholesky(own.T @ own + 1e-10 * np.eye(own.shape[1]))
    codes = nnls(root.T, np.linalg.solve(root, own.T @ signal - lam))[0]
    return 0.5 * np.sum((signal - own @ codes) ** 2) + lam * codes.sum()


def test_the_values_are_the_best_on_the_support(model, signals, encoder):
    begun = encoder(model, signals)
    found = OnSupport(encoder, LAM).infer(model, signals, begun)
    atoms, norms = unit_atoms(model.dictionary)
    on, target = np.abs(np.asarray(begun)) > 1e-4, np.asarray(signals - model.bias, np.float64)
    expected = [
        best_on(y, np.asarray(atoms, np.float64), where, LAM)
        for y, where in zip(target, on, strict=True)
    ]
    np.testing.assert_allclose(found.objective, expected, rtol=1e-5)
    achieved = lasso_problem.objective(signals - model.bias, atoms, found.codes * norms, LAM)
    np.testing.assert_allclose(achieved, found.objective, rtol=1e-5)
    assert (found.codes >= 0).all() and not np.asarray(found.codes)[~on].any()


@pytest.mark.parametrize("make", [OnSupport, LeastSquares])
def test_a_latent_is_on_above_the_published_threshold(model, signals, make):
    begun = (
        jnp.zeros((len(signals), 20)).at[:, 4].set(1e-4).at[:, 7].set(1.1e-4).at[:, 8].set(-1.1e-4)
    )
    codes = np.asarray(make(Dense()).infer(model, signals, begun).codes)
    assert set(np.flatnonzero(codes.any(axis=0))) == {7, 8}


def test_least_squares_against_numpy_sample_by_sample(model, signals, encoder):
    begun = encoder(model, signals)
    found = LeastSquares(encoder).infer(model, signals, begun)
    on = np.abs(np.asarray(begun)) > 1e-4
    centred = np.asarray(signals - model.bias, np.float64)
    expected = by_lstsq(centred, np.asarray(model.dictionary, np.float64), on)
    assert (expected < 0).any() and found.certified is None
    free = OnSupport(encoder, 0.0, nonneg=False).infer(model, signals, begun)
    assert (np.asarray(free.codes) < 0).any() and free.certified is None
    # Single precision cannot solve what is as good as dependent; the test below does, in double.
    fine = np.array(
        [not where.any() or np.linalg.cond(model.dictionary[:, where]) < 300 for where in on]
    )
    assert fine.mean() > 0.9
    np.testing.assert_allclose(
        found.codes[fine], expected[fine].clip(0), atol=5e-3 * np.abs(expected[fine]).max()
    )
