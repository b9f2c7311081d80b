import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import lasso
from sae_gap.solvers import match_l0, sparse_code, sparse_code_path

from .problems import draw


def test_path_equals_one_weight_at_a_time_in_any_order():
    signals, dictionary = draw()
    lams = [0.05, 0.3, 0.01]
    path = sparse_code_path(signals, dictionary, lams)
    assert path.codes.shape == (3, *signals.shape[:1], dictionary.shape[1]) and bool(jnp.all(path.converged))
    for codes, lam in zip(path.codes, lams, strict=True):
        np.testing.assert_allclose(codes, sparse_code(signals, dictionary, lam).codes, atol=1e-4)


def test_relative_weights_are_fractions_of_lambda_max():
    signals, dictionary = draw(1)
    path = sparse_code_path(signals, dictionary, [1.0, 0.5], relative=True)
    assert not np.any(path.codes[0])
    top = lasso.lambda_max(signals, dictionary)
    np.testing.assert_allclose(path.codes[1], sparse_code(signals, dictionary, 0.5 * top).codes, atol=1e-4)


@pytest.mark.parametrize("target", [1.0, 2.0, 4.0])
def test_match_l0_hits_its_target(target):
    signals, dictionary = draw(2)
    lam, solution = match_l0(signals, dictionary, target, threshold=1e-4)
    mean = float(jnp.mean(jnp.sum(jnp.abs(solution.codes) > 1e-4, axis=1)))
    assert abs(mean - target) <= max(0.01 * target, 1 / len(signals)) + 1e-6
    np.testing.assert_allclose(solution.objective, sparse_code(signals, dictionary, lam).objective, rtol=3e-6)


def test_bad_arguments_are_refused():
    signals, dictionary = draw()
    with pytest.raises(ValueError, match="lams has shape"):
        sparse_code_path(signals, dictionary, 0.1)
    with pytest.raises(ValueError, match="negative"):
        sparse_code_path(signals, dictionary, [0.1, -1.0])
    with pytest.raises(ValueError, match="init"):
        sparse_code_path(signals, dictionary, [0.1], init=None)
    with pytest.raises(ValueError, match="init"):
        match_l0(signals, dictionary, 3.0, init=None)
    with pytest.raises(ValueError, match="target"):
        match_l0(signals, dictionary, 0.0)
    with pytest.raises(ValueError, match="lower the target"):
        match_l0(signals, dictionary, 39.0)
    with pytest.raises(ValueError, match="orthogonal"):
        match_l0(0 * signals, dictionary, 1.0)
