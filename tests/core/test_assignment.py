"""Assignments against brute force and SciPy."""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_gap.core import assignment, matching
from sae_gap.core.assignment import assign


def brute_force(scores):
    """Best total over every one-to-one assignment of the shorter side."""
    wide = scores if scores.shape[0] <= scores.shape[1] else scores.T
    rows = np.arange(wide.shape[0])
    return max(wide[rows, list(columns)].sum() for columns in itertools.permutations(range(wide.shape[1]), len(rows)))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 6), (6, 3), (1, 5)])
def test_assignment_is_the_best_of_all(shape):
    scores = np.random.default_rng(0).random(shape)
    rows, columns = assign(scores)
    assert len(rows) == min(shape) == len(set(rows)) == len(set(columns))
    assert scores[rows, columns].sum() == pytest.approx(brute_force(scores), abs=1e-12)


def scores_of(kind, rng, rows, columns):
    """Scores that contest an assignment in different ways."""
    if kind == "random":
        return rng.random((rows, columns))
    if kind == "weak":
        return np.abs(rng.standard_normal((rows, columns))) / 50
    if kind == "near":
        return np.eye(rows, columns) * 0.8 + 0.2 * rng.random((rows, columns))
    if kind == "ties":
        return rng.integers(0, 3, (rows, columns)) / 2
    scores = rng.random((rows, columns))
    # Dead and doubled atoms.
    scores[:, : columns // 3] = 0
    scores[:, -columns // 3 :] = scores[:, [-1]]
    scores[: rows // 4] = 0
    return scores


@given(
    kind=st.sampled_from(["random", "weak", "near", "ties", "dead"]),
    seed=st.integers(0, 1_000),
    rows=st.integers(4, 70),
    spare=st.integers(-3, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=150, deadline=None)
def test_prices_leave_the_optimum_where_it_is(kind, seed, rows, spare, dtype):
    scores = scores_of(kind, np.random.default_rng(seed), rows, max(4, rows + spare)).astype(dtype)
    with mock.patch.object(assignment, "_CONTESTED_ROWS", 0), mock.patch.object(assignment, "_SPARE", 5.0):
        pairs = assign(scores)
    assert np.array_equal(pairs[0], np.unique(pairs[0])) and len(np.unique(pairs[1])) == len(pairs[1]) == min(scores.shape)
    best = scores[linear_sum_assignment(scores, maximize=True)].sum(dtype=np.float64)
    assert scores[pairs].sum(dtype=np.float64) == pytest.approx(best, abs=1e-9)


# With so few candidates of each row its list is soon out of date.
@pytest.mark.parametrize(("kind", "candidates"), [("random", 32), ("weak", 32), ("weak", 4)])
def test_prices_let_most_rows_have_what_they_like(kind, candidates, monkeypatch):
    monkeypatch.setattr(assignment, "_CANDIDATES", candidates)
    scores = scores_of(kind, np.random.default_rng(0), 300, 300)
    prices = assignment._prices(scores)
    assert prices.min() >= 0
    # Without prices, a good third of the columns are nobody's favourite.
    assert len(np.unique(scores.argmax(axis=1))) < 200
    assert len(np.unique((scores - prices).argmax(axis=1))) > 225


def test_columns_that_all_like_equally_well_are_not_bid_for_without_end():
    assert assignment._prices(np.ones((40, 40))) is None
    assert assignment._prices(np.zeros((40, 40))) is None


def test_a_large_contested_assignment_against_scipy():
    rng = np.random.default_rng(1)
    scores = matching.correlations(rng.standard_normal((60, 2_050)), rng.standard_normal((60, 2_010)))
    best = scores[linear_sum_assignment(scores, maximize=True)].sum()
    with mock.patch.object(assignment, "_prices", wraps=assignment._prices) as priced:
        assert scores[assign(scores)].sum() == pytest.approx(best, abs=1e-9)
    assert priced.call_count == 1 and priced.call_args[0][0].shape == (2_010, 2_050)
