"""The objective and the duality gap by hand, and the proximal map by a grid."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import float32
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark

from sae_gap.core import Solution, lasso_problem

# One program each, where each step would be one.
certificate = jax.jit(lasso_problem.certificate, static_argnames="nonneg")


def _problem(seed, nonneg=True):
    rng = default_rng(seed)
    codes = rng.normal(size=(7, 11)) * (rng.uniform(size=(7, 11)) < 0.4)
    codes = np.abs(codes) if nonneg else codes
    return rng.normal(size=(7, 6)), rng.normal(size=(6, 11)), codes


@mark.parametrize("given", [False, True], ids=["residual", "other dual"])
@mark.parametrize("nonneg", [True, False])
@mark.parametrize("shape", [(), (7, 1), (1, 11), (7, 11), (7,)])
def test_gap_is_primal_minus_feasible_dual(nonneg, shape, given):
    signals, dictionary, codes = _problem(0, nonneg)
    rng = default_rng(1)
    lam = rng.uniform(0.1, 0.6, size=shape)
    other = rng.normal(size=signals.shape)
    value, gap = certificate(
        signals, dictionary, codes, lam, nonneg=nonneg, dual=other if given else None
    )
    weight = np.broadcast_to(lam[:, None] if shape == (7,) else lam, (7, 11))
    rest = signals - codes @ dictionary.T
    theta = other if given else rest
    pull = theta @ dictionary if nonneg else np.abs(theta @ dictionary)
    scale = np.min(np.where(pull > weight, weight / np.maximum(pull, 1e-30), 1), axis=1)
    primal = 0.5 * (rest**2).sum(1) + (weight * np.abs(codes)).sum(1)
    dual = 0.5 * (signals**2 - (signals - scale[:, None] * theta) ** 2).sum(1)
    assert_allclose(value, primal, rtol=1e-5)
    assert_allclose(gap, primal - dual, rtol=1e-4, atol=1e-5)
    found = lasso_problem.objective(signals, dictionary, codes, lam)
    assert_allclose(found, primal, rtol=1e-5)


def test_gap_does_not_cancel_in_float32():
    # One atom: the optimum is y - lam, and a code off by e has a gap of about lam e, here far below
    # the roundoff of F.
    signals, codes = np.array([[[1000.0]], [[999.75]]], float32)
    value, gap = certificate(
        signals, np.ones((1, 1), float32), codes, float32(0.25 + 2**-20)
    )
    exact = 0.5 * 0.25**2 + 999.75 * (0.25 + 2**-20)
    assert value[0] == approx(exact, rel=1e-6)
    assert gap[0] == approx(999.75 * 2**-20, rel=1e-4)


@given(*[st.floats(-5, 5, width=32)] * 2, st.floats(0, 3, width=32), st.booleans())
@settings(max_examples=15, deadline=None)
def test_soft_threshold_is_a_non_expansive_proximal_map(x, y, threshold, nonneg):
    near, far = (
        float(
            lasso_problem.soft_threshold(jnp.float32(value), threshold, nonneg=nonneg)
        )
        for value in (x, y)
    )
    assert abs(near - far) <= abs(x - y) * (1 + 1e-6) + 1e-6
    grid = np.linspace(0 if nonneg else -6, 6, 2401)
    best = grid[np.argmin(0.5 * (grid - x) ** 2 + threshold * np.abs(grid))]
    assert near == approx(best, abs=5e-3)


@mark.parametrize("shape", [(5, 12), (12, 5)])
def test_lipschitz_is_the_squared_spectral_norm(shape):
    dictionary = default_rng(0).normal(size=shape).astype(float32)
    found = float(lasso_problem.lipschitz(dictionary))
    assert found == approx(norm(dictionary, 2) ** 2, rel=1e-5)


@mark.parametrize("nonneg", [True, False])
def test_lambda_max_is_where_zero_becomes_optimal(nonneg):
    signals, dictionary, codes = _problem(4)
    top = lasso_problem.lambda_max(signals, dictionary, nonneg=nonneg)
    above, below = (
        certificate(signals, dictionary, 0 * codes, top * share, nonneg=nonneg)[1]
        for share in (1.0001, 0.9)
    )
    assert above.max() == 0 and below.min() > 0
    # Zero where nothing correlates.
    found = lasso_problem.lambda_max(-jnp.ones((1, 3)), jnp.eye(3), nonneg=nonneg)
    assert found.tolist() == [not nonneg]


def test_is_converged_counts_an_unresolvable_objective_as_zero_and_an_infinite_one_as_no():
    signals = jnp.ones((4, 4), jnp.float32)
    # Beside ½ (16 eps ‖y‖)², of ‖y‖ = 2.
    floor = 0.5 * (32 * np.finfo(float32).eps) ** 2
    value = jnp.asarray([0.9 * floor, 1.1 * floor, jnp.inf, jnp.nan], jnp.float32)
    found = lasso_problem.is_converged(signals, value, value, 1e-6)
    assert found.tolist() == [True, False, False, False]


def test_gaps_relative_to_objectives_in_double_precision():
    value = np.array([2, 0], float32)
    gap = np.array([1e-6, 0], float32)
    found = lasso_problem.relative_gap(Solution(None, value, gap, None, None))
    assert_array_equal(found, [np.float64(gap[0]) / 2, 0])
