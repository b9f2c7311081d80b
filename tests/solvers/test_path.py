import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import lasso_problem
from sae_gap.solvers import match_l0, path, sparse_code

from .problems import draw


@pytest.mark.parametrize(("target", "nonneg"), [(1.0, True), (2.0, False), (4.0, True)])
def test_match_l0_hits_its_target(target, nonneg):
    signals, dictionary = draw(2)
    lam, solution = match_l0(signals, dictionary, target, nonneg=nonneg)
    mean = float(jnp.mean(jnp.sum(solution.codes != 0, axis=1)))
    assert abs(mean - target) <= max(0.01 * target, 1 / len(signals)) + 1e-6
    np.testing.assert_allclose(
        solution.objective,
        sparse_code(signals, dictionary, lam, nonneg=nonneg).objective,
        rtol=3e-6,
    )


@pytest.fixture
def tried(monkeypatch):
    """The weights at which `match_l0` solves, in order."""
    found = []

    def recorded(signals, dictionary, lam, **options):
        found.append(np.asarray(lam))
        return sparse_code(signals, dictionary, lam, **options)

    monkeypatch.setattr(path, "sparse_code", recorded)
    return found


@pytest.mark.parametrize(("target", "nonneg"), [(0.5, True), (2.0, False), (4.0, True)])
def test_match_l0_comes_from_above_and_never_goes_far_below_the_weight(target, nonneg, tried):
    signals, dictionary = draw(3)
    # What has no negative correlation is largest with the opposite sign.
    signals[0] = -9 * dictionary[:, 0]
    lam, _ = match_l0(signals, dictionary, target, nonneg=nonneg)
    assert min(tried) > 0.499 * float(lam) and len(tried) <= 9
    assert tried[0] == pytest.approx(
        0.5 * float(jnp.max(lasso_problem.lambda_max(signals, dictionary, nonneg=nonneg))), rel=1e-5
    )
    assert all(later >= 0.499 * before for before, later in itertools.pairwise(tried))


def test_match_l0_says_how_far_it_is_where_the_mean_jumps_over_the_target(tried):
    signals = jnp.tile(jnp.array([[3.0, 4.0]]), (9, 1))
    with pytest.warns(UserWarning, match=r"is 1 at the closest weight found, .*, and not 0\.5"):
        lam, solution = match_l0(signals, jnp.eye(2), 0.5)
    assert np.count_nonzero(solution.codes, axis=1).tolist() == [1] * 9 and 3 < lam < 4
    assert max(tried) == pytest.approx(4, rel=1e-5)
    np.testing.assert_allclose(solution.codes[:, 1], 4 - lam, rtol=1e-5)
    # From 0.5 to 2.
    signals = jnp.repeat(jnp.array([[9.0, 0, 0, 0], [0, 4, 4, 4]]), 9, axis=0)
    with pytest.warns(UserWarning, match=r"is 0\.5 at the closest weight found"):
        match_l0(signals, jnp.eye(4), 0.7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, d: match_l0(y, d, 0.0), "target"),
        (lambda y, d: match_l0(y, d, 39.0), "have at most .*; lower the target"),
        (lambda y, d: match_l0(y, jnp.tile(d[:, :1], 9), 3.0), "only .* at the smallest; lower"),
        (lambda y, d: match_l0(0 * y, d, 1.0), "orthogonal"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*draw())
