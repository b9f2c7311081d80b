"""The best values on a support, against SciPy and the conditions of a minimum."""

import importlib

import numpy as np
import pytest
from scipy.optimize import nnls

from sae_gap.encoders.on_support import FORBIDDEN
from sae_gap.measure import lasso_on_support, refit
from sae_gap.solvers import sparse_code

module = importlib.import_module("sae_gap.measure.refit")


def draw(*, dim=20, width=60, size=12, n=15, coherent=0.0, seed=0):
    """Signals, atoms of lengths from .1 to 10, and supports."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(dim, width)) + coherent * rng.normal(size=(dim, 1))
    dictionary = (dictionary * 10 ** rng.uniform(-1, 1, width)).astype(np.float32)
    on = np.argsort(rng.random((n, width)), axis=1) < size
    signals = 100 * rng.normal(size=(n, dim)) + (on * rng.normal(size=(n, width))) @ dictionary.T
    return signals.astype(np.float32), dictionary, on


def errors(signals, dictionary, codes):
    return np.sum(
        (signals.astype(float) - codes.astype(float) @ dictionary.T.astype(float)) ** 2, axis=1
    )


@pytest.mark.parametrize("coherent", [0.0, 4.0])
@pytest.mark.parametrize("size", [1, 12, 20, 45])
def test_non_negative_values_are_those_of_scipy(size, coherent):
    signals, dictionary, on = draw(size=size, coherent=coherent)
    codes = refit(signals, dictionary, on)
    best = [
        nnls(dictionary[:, row].astype(float), y.astype(float))[1] ** 2
        for row, y in zip(on, signals, strict=True)
    ]
    np.testing.assert_allclose(
        errors(signals, dictionary, codes),
        best,
        rtol=1e-6,
        atol=1e-9 * np.sum(signals**2, axis=1).max(),
    )
    assert (codes >= 0).all() and not codes[~on].any()


@pytest.mark.parametrize("size", [12, 45])
def test_signed_values_are_the_least_squares(size):
    signals, dictionary, on = draw(size=size)
    codes = refit(signals, dictionary, on, nonneg=False)
    best = [
        np.linalg.lstsq(dictionary[:, row].astype(float), y.astype(float))[0]
        for row, y in zip(on, signals, strict=True)
    ]
    fitted = np.array(
        [dictionary[:, row].astype(float) @ z for row, z in zip(on, best, strict=True)]
    )
    scale = np.abs(signals).max()
    np.testing.assert_allclose(codes.astype(float) @ dictionary.T, fitted, atol=1e-5 * scale)
    assert (codes < 0).any() and not codes[~on].any()


def test_what_cannot_be_fitted_is_zero():
    signals, dictionary, on = draw()
    on[3], signals[5], dictionary[:, on[7]] = False, 0, 0
    for nonneg in (True, False):
        codes = refit(signals, dictionary, on, nonneg=nonneg)
        assert (
            np.isfinite(codes).all()
            and not codes[[3, 5, 7]].any()
            and codes[[0, 1, 2]].any(axis=1).all()
        )


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("size", [12, 45])
def test_the_lasso_on_a_support_is_that_of_the_coder(size, nonneg):
    signals, dictionary, on = draw(size=size)
    dictionary = dictionary / np.linalg.norm(dictionary, axis=0)
    on[3], signals[5] = False, 0
    lam = np.linspace(5, 60, len(signals))[:, None].astype(np.float32)
    found = lasso_on_support(signals, dictionary, on, lam, nonneg=nonneg)
    weights = np.where(on, lam, np.float32(FORBIDDEN))
    peer = sparse_code(signals, dictionary, weights, nonneg=nonneg, tol=1e-6)
    np.testing.assert_allclose(found.objective, peer.objective, rtol=3e-6)
    rest = signals - np.asarray(found.codes, float) @ dictionary.T
    own = 0.5 * np.sum(rest**2, axis=1) + lam[:, 0] * np.abs(found.codes).sum(axis=1)
    np.testing.assert_allclose(found.objective, own, rtol=1e-5)
    assert (np.asarray(found.gap) <= 1e-8 * np.asarray(found.objective)).all() and not np.asarray(
        found.codes
    )[~on].any()
    assert (np.asarray(found.codes) < 0).any() != nonneg


def test_a_gap_shows_values_that_are_not_the_best(monkeypatch):
    signals, dictionary, on = draw()
    best = lasso_on_support(signals, dictionary, on, 20.0)
    values = module._non_negative
    monkeypatch.setattr(module, "_non_negative", lambda *given: 0.9 * values(*given))
    worse = lasso_on_support(signals, dictionary, on, 20.0)
    excess = np.asarray(worse.objective - best.objective)
    assert (excess > 0).all() and (np.asarray(worse.gap) >= 0.999 * excess).all()


def test_a_sample_whose_exchanges_do_not_end_is_left_to_scipy(monkeypatch):
    signals, dictionary, on = draw(dim=40, size=30, coherent=4.0)
    usual = errors(signals, dictionary, refit(signals, dictionary, on))
    monkeypatch.setattr(module, "EXCHANGES", 0)
    np.testing.assert_allclose(
        errors(signals, dictionary, refit(signals, dictionary, on)), usual, rtol=1e-6
    )
