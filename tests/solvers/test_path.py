import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark, raises

from sae_gap.solvers import match_l0, path, sparse_code

from .problems import draw


@fixture
def tried(monkeypatch):
    """The weights at which `match_l0` solves, in order."""
    found = []

    def recorded(signals, dictionary, lam, **options):
        found.append(lam)
        return sparse_code(signals, dictionary, lam, **options)

    monkeypatch.setattr(path, "sparse_code", recorded)
    return found


@mark.parametrize(("target", "nonneg"), [(0.51, True), (2.0, False), (4.0, True)])
def test_match_l0_comes_from_above_and_never_goes_far_below_the_weight(
    target, nonneg, tried
):
    signals, dictionary = draw(3)
    # What has no negative correlation is largest with the opposite sign.
    signals[0] = -9 * dictionary[:, 0]
    lam, solution = match_l0(signals, dictionary, target, nonneg=nonneg)
    mean = np.count_nonzero(solution.codes) / len(signals)
    assert abs(mean - target) <= max(0.01 * target, 1 / len(signals)) + 1e-6
    plain = sparse_code(signals, dictionary, lam, nonneg=nonneg)
    assert_allclose(solution.objective, plain.objective, rtol=3e-6)
    assert min(tried) > 0.499 * float(lam) and len(tried) <= 9
    pull = signals @ dictionary
    assert tried[0] == approx(0.5 * (pull if nonneg else abs(pull)).max(), rel=1e-5)
    assert all(later >= 0.499 * before for before, later in itertools.pairwise(tried))


# Where all samples are the same, and where half of them reach one atom and then half two.
@mark.parametrize(
    ("rows", "target", "reached"),
    [([[3, 4, 0, 0]], 0.5, 1), ([[9, 0, 0, 0], [0, 4, 4, 4]], 0.7, 0.5)],
)
def test_match_l0_says_how_far_it_is_where_the_mean_jumps_over_the_target(
    rows, target, reached
):
    signals = np.repeat(np.float32(rows), 9, axis=0)
    words = rf"is {reached} at the closest weight found, .*, and not {target}; give a larger"
    with pytest.warns(UserWarning, match=words):
        lam, solution = match_l0(signals, np.eye(4), target)
    assert np.count_nonzero(solution.codes) == reached * len(signals)
    assert_allclose(solution.codes, np.maximum(signals - lam, 0), rtol=1e-5)


@mark.parametrize(
    ("change", "target", "message"),
    [
        (lambda y, d: (y, d), 0.0, "target"),
        (lambda y, d: (y, d), 39.0, "have at most .*; lower the target"),
        (lambda y, d: (y, np.tile(d[:, :1], 9)), 3.0, "only .* at the smallest; lower"),
        (lambda y, d: (0 * y, d), 1.0, "orthogonal"),
    ],
)
def test_targets_out_of_reach_are_refused(change, target, message):
    with raises(ValueError, match=message):
        match_l0(*change(*draw()), target)
