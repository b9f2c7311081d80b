"""Scores in float64 are the definitions, and no weaker or stronger certificate than they say."""

import numpy as np
import pytest

from benchmarks.speed import scores


def problem(nonneg):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(4, 7))
    return rng.normal(size=(4, 5)), rng.normal(size=(5, 7)), np.abs(codes) if nonneg else codes


@pytest.mark.parametrize(
    "lam", [0.3, np.linspace(0.1, 0.4, 4)[:, None], np.linspace(0.1, 0.7, 28).reshape(4, 7)]
)
@pytest.mark.parametrize("nonneg", [True, False])
def test_score_is_the_definition(nonneg, lam):
    signals, dictionary, codes = problem(nonneg)
    value, gap = scores.score(signals, dictionary, codes, lam, nonneg=nonneg)
    rest = signals - codes @ dictionary.T
    bound = rest @ dictionary if nonneg else np.abs(rest @ dictionary)
    scale = np.minimum(1, (lam / np.maximum(bound, 1e-9)).min(axis=1))[:, None]
    np.testing.assert_allclose(value, 0.5 * (rest**2).sum(1) + (lam * np.abs(codes)).sum(1))
    dual = 0.5 * (signals**2).sum(1) - 0.5 * ((signals - scale * rest) ** 2).sum(1)
    np.testing.assert_allclose(gap, value - dual, atol=1e-12)


@pytest.mark.parametrize("lam", [0, np.array([[0.1, 0, 0.1, 0.1, 0.1, 0.1, 0.1]]), np.nan])
def test_a_weight_of_zero_has_no_gap(lam):
    with pytest.raises(ValueError, match="lam must be above 0"):
        scores.score(*problem(True), lam)


def test_a_feasible_point_breaks_no_constraint_and_could_not_be_longer():
    pull = np.array([[2.0, -8.0], [0.1, -0.1], [0.0, -3.0]])
    np.testing.assert_allclose(scores.feasible(pull, 1.0, nonneg=True), [0.5, 1, 1])
    np.testing.assert_allclose(
        scores.feasible(pull, np.array([[1.0, 2.0]]), nonneg=False), [0.25, 1, 2 / 3]
    )
