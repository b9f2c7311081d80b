import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_gap.core import lasso_problem
from sae_gap.core.types import Solution

# One program each, where each step would be one.
certificate = jax.jit(lasso_problem.certificate, static_argnames="nonneg")


def _problem(seed, n=7, m=6, latents=11, nonneg=True):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(n, latents)) * (rng.uniform(size=(n, latents)) < 0.4)
    return (
        rng.normal(size=(n, m)),
        rng.normal(size=(m, latents)),
        np.abs(codes) if nonneg else codes,
    )


def _dual(signals, theta):
    return 0.5 * (signals**2).sum(1) - 0.5 * ((signals - theta) ** 2).sum(1)


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("shape", [(), (7, 1), (1, 11), (7, 11), (7,), (11,)])
def test_gap_is_primal_minus_feasible_dual(nonneg, shape):
    signals, dictionary, codes = _problem(0, nonneg=nonneg)
    lam = np.random.default_rng(1).uniform(0.1, 0.6, size=shape)
    value, gap = (
        np.asarray(a) for a in certificate(signals, dictionary, codes, lam, nonneg=nonneg)
    )
    weight = np.broadcast_to(np.asarray(lasso_problem.expand_lam(lam, 7, 11)), (7, 11))
    rest = signals - codes @ dictionary.T
    pull = rest @ dictionary if nonneg else np.abs(rest @ dictionary)
    scale = np.minimum(
        1, np.min(np.where(pull > 0, weight / np.maximum(pull, 1e-30), np.inf), axis=1)
    )
    primal = 0.5 * (rest**2).sum(1) + (weight * np.abs(codes)).sum(1)
    np.testing.assert_allclose(value, primal, rtol=1e-5)
    np.testing.assert_allclose(
        gap, primal - _dual(signals, scale[:, None] * rest), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        lasso_problem.objective(signals, dictionary, codes, lam), primal, rtol=1e-5
    )


def test_gap_with_a_given_dual_point():
    signals, dictionary, codes = _problem(2)
    theta = np.random.default_rng(3).normal(size=signals.shape)
    scale = np.minimum(1, 0.3 / (theta @ dictionary).max(1))[:, None]
    primal = np.asarray(lasso_problem.objective(signals, dictionary, codes, 0.3))
    gap = certificate(signals, dictionary, codes, 0.3, dual=theta)[1]
    np.testing.assert_allclose(gap, primal - _dual(signals, scale * theta), rtol=1e-4, atol=1e-5)


def test_gap_does_not_cancel_in_float32():
    # One atom: the optimum is y - lam, and a code off by e has a gap of about lam e, here far below
    # the roundoff of F.
    signals = np.full((1, 1), 1000.0, np.float32)
    dictionary = np.ones((1, 1), np.float32)
    codes = np.full((1, 1), 999.75, np.float32)
    value, gap = certificate(signals, dictionary, codes, np.float32(0.25 + 2**-20))
    exact = 0.5 * 0.25**2 + 999.75 * (0.25 + 2**-20)
    assert value[0] == pytest.approx(exact, rel=1e-6)
    assert gap[0] == pytest.approx(999.75 * 2**-20, rel=1e-4)


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=2),
    st.floats(0, 3, width=32),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_soft_threshold_is_a_non_expansive_proximal_map(values, threshold, nonneg):
    x, y = (lasso_problem.soft_threshold(jnp.float32(v), threshold, nonneg=nonneg) for v in values)
    assert abs(float(x - y)) <= abs(values[0] - values[1]) * (1 + 1e-6) + 1e-6
    grid = np.linspace(0 if nonneg else -6, 6, 2401)
    best = grid[np.argmin(0.5 * (grid - values[0]) ** 2 + threshold * np.abs(grid))]
    assert float(x) == pytest.approx(best, abs=5e-3)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)])
def test_lipschitz_is_the_squared_spectral_norm(shape):
    dictionary = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert float(lasso_problem.lipschitz(dictionary)) == pytest.approx(
        np.linalg.norm(dictionary, 2) ** 2, rel=1e-5
    )


@pytest.mark.parametrize("nonneg", [True, False])
def test_lambda_max_is_where_zero_becomes_optimal(nonneg):
    signals, dictionary, _ = _problem(4)
    zero = np.zeros((7, 11))
    top = lasso_problem.lambda_max(signals, dictionary, nonneg=nonneg)
    above, below = (
        np.asarray(certificate(signals, dictionary, zero, top * share, nonneg=nonneg)[1])
        for share in (1.0001, 0.9)
    )
    assert above.max() == 0 and below.min() > 0


def test_lambda_max_is_zero_where_nothing_correlates():
    against = -jnp.ones((1, 3))
    assert lasso_problem.lambda_max(against, jnp.eye(3)).tolist() == [0]
    assert lasso_problem.lambda_max(against, jnp.eye(3), nonneg=False).tolist() == [1]


def test_is_converged_of_an_infinite_objective_says_no():
    infinite = jnp.array([jnp.inf, jnp.nan])
    assert not lasso_problem.is_converged(jnp.ones((2, 3)), infinite, infinite, 1e-6).any()


def test_is_converged_counts_an_unresolvable_objective_as_zero():
    signals = jnp.ones((2, 4), jnp.float32)
    # Beside ½ (16 eps ‖y‖)², of ‖y‖ = 2.
    value = 0.5 * (32 * np.finfo(np.float32).eps) ** 2 * jnp.asarray([0.9, 1.1], jnp.float32)
    assert lasso_problem.is_converged(signals, value, value, 1e-6).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 11), (1, 1, 1)])
def test_expand_lam_refuses_shapes_that_fit_nothing(shape):
    with pytest.raises(ValueError, match="lam has shape"):
        lasso_problem.expand_lam(jnp.ones(shape), 7, 11)


def test_expand_lam_refuses_to_guess():
    with pytest.raises(ValueError, match="reshape it to"):
        lasso_problem.expand_lam(jnp.ones(4), 4, 4)
    assert lasso_problem.expand_lam(jnp.ones(1), 1, 1).shape == (1, 1)


def test_gaps_relative_to_objectives_in_double_precision():
    value, gap = np.array([2, 0], np.float32), np.array([1e-6, 0], np.float32)
    found = lasso_problem.relative_gap(Solution(None, value, gap, None, None))
    np.testing.assert_array_equal(found, [np.float64(gap[0]) / 2, 0])
