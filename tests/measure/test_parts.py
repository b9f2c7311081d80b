"""The parts of the gap against SciPy: a scalar minimisation for the scale, bounded minimisations for values and support."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from sae_gap.core import lasso_problem
from sae_gap.measure import GapSums, gap_parts, gap_sums, lasso_on_support
from sae_gap.solvers import sparse_code

LAM = 0.2


def draw(seed=0, n=7, dim=6, width=10):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(dim, width))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.maximum(rng.normal(size=(n, width)), 0) * (rng.random((n, width)) < 0.4)
    target = codes @ dictionary.T + 0.3 * rng.normal(size=(n, dim))
    return target, dictionary, 1.7 * codes + 0.2 * (codes > 0)


def objective(target, dictionary, codes, lam=LAM):
    return 0.5 * np.sum((target - codes @ dictionary.T) ** 2, axis=1) + lam * np.abs(codes).sum(axis=1)


def best(target, dictionary, on):
    """The least objective of one sample over `z ≥ 0` on a support, by L-BFGS-B."""
    own = dictionary[:, on]
    if not on.any():
        return 0.5 * target @ target

    def value(z):
        rest = target - own @ z
        return 0.5 * rest @ rest + LAM * z.sum(), LAM - own.T @ rest

    bounds = [(0, None)] * own.shape[1]
    return minimize(value, np.ones(own.shape[1]), jac=True, bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-10}).fun


def sums(target, dictionary, codes, lam=LAM, nonneg=True):
    y, d, z = (jnp.asarray(array, jnp.float32) for array in (target, dictionary, codes))
    optimum = sparse_code(y, d, lam, nonneg=nonneg)
    support = lasso_on_support(y, d, z != 0, lam, nonneg=nonneg)
    return gap_sums(y, lasso_problem.product(z, d.T), z, lam, support, optimum)


def test_each_part_is_what_scipy_finds():
    target, dictionary, codes = draw()
    parts = gap_parts(sums(target, dictionary, codes))
    own = objective(target, dictionary, codes).mean()
    scaled = minimize_scalar(lambda a: objective(target, dictionary, a * codes).mean(), bounds=(0, 3), method="bounded")
    support = np.mean([best(y, dictionary, z != 0) for y, z in zip(target, codes, strict=True)])
    every = np.mean([best(y, dictionary, np.full(len(z), True)) for y, z in zip(target, codes, strict=True)])
    assert parts.scale == pytest.approx(scaled.x, abs=1e-4) and abs(parts.scale - 1) > 0.1
    found = (parts.scale_part, parts.values_part, parts.support_part)
    assert found == pytest.approx((own - scaled.fun, scaled.fun - support, support - every), rel=1e-3, abs=1e-5)
    assert all(part > 0.001 for part in found)
    assert parts.gap == pytest.approx(sum(found), rel=1e-9) and parts.optimum == pytest.approx(every, rel=1e-5)
    assert 0 <= parts.support_certificate <= 1e-6 * support and 0 <= parts.optimum_certificate <= 1e-6 * every


def test_chunks_add_up():
    target, dictionary, codes = draw(1, n=8)
    halves = [sums(target[rows], dictionary, codes[rows]) for rows in (slice(3), slice(3, 8))]
    whole = gap_parts(sums(target, dictionary, codes))
    assert gap_parts(halves[0].plus(halves[1])) == pytest.approx(whole, rel=1e-5, abs=1e-7)


def test_codes_that_only_want_a_scale_lose_nothing_else():
    target, dictionary, _ = draw(2)
    optimum = np.asarray(sparse_code(jnp.asarray(target, jnp.float32), jnp.asarray(dictionary, jnp.float32), LAM).codes)
    parts = gap_parts(sums(target, dictionary, 1.5 * optimum))
    assert parts.scale == pytest.approx(1 / 1.5, rel=1e-3)
    assert parts.scale_part == pytest.approx(parts.gap, rel=1e-3) and parts.gap > 0.01
    assert parts.values_part == pytest.approx(0, abs=1e-5) and parts.support_part == pytest.approx(0, abs=1e-5)


def test_codes_that_point_away_are_scaled_to_nothing_and_signed_ones_are_held_against_signed_ones():
    target, dictionary, codes = draw(3)
    assert gap_parts(sums(target, dictionary, -codes, nonneg=False)).scale == 0
    signed = sums(target, dictionary, codes * np.sign(np.random.default_rng(0).normal(size=codes.shape)), nonneg=False)
    assert signed.optimum < sums(target, dictionary, codes).optimum


def test_a_weight_for_each_sample():
    target, dictionary, codes = draw(4)
    lams = np.linspace(0.05, 0.4, len(target))
    found = sums(target, dictionary, codes, jnp.asarray(lams, jnp.float32)[:, None])
    parts = gap_parts(found)
    own = 0.5 * np.sum((target - codes @ dictionary.T) ** 2, axis=1) + lams * codes.sum(axis=1)
    assert parts.gap + parts.optimum == pytest.approx(own.mean(), rel=1e-5)


def test_nothing_has_no_parts():
    with pytest.raises(ValueError, match="no samples"):
        gap_parts(GapSums(0, *[0.0] * 8))
    dark = gap_parts(GapSums(2, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0))
    assert (dark.scale, dark.gap) == (1, 0)
