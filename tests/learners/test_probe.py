"""The linear probe against scikit-learn's ridge regression with leave-one-out choice of its
penalty.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import RidgeCV

from sae_gap import Split, Task, fit
from sae_gap.encoders.linear import Linear
from sae_gap.learners.probe import LinearProbe

ALPHAS = (1e-6, 1e-4, 1e-2, 1.0, 10.0)


def problem(n, noise, input_dim=12, num_latents=5, seed=0):
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(n, input_dim))
    codes = signals @ rng.normal(size=(input_dim, num_latents)) + noise * rng.normal(
        size=(n, num_latents)
    )
    return signals.astype(np.float32), codes.astype(np.float32)


def probe(signals, codes, learner=None):
    train = Split(jnp.asarray(signals), jnp.asarray(codes))
    task = Task(train, train, train, width=codes.shape[1])
    return fit(learner or LinearProbe(), [task], [jax.random.key(0)])[0].end.model


def ridge(signals, codes):
    peer = RidgeCV(ALPHAS, fit_intercept=False, alpha_per_target=False)
    return peer.fit(signals.astype(float), codes.astype(float))


# The more noise, the larger the penalty that is best; with fewer samples than dimensions every fit
# without one is exact.
CASES = [(200, 0, 1e-6), (200, 0.1, 1e-4), (200, 0.3, 1e-2), (60, 3.0, 1.0), (40, 30.0, 10.0)]


@pytest.mark.parametrize(("n", "noise", "alpha"), [*CASES, (9, 0.5, 1.0), (8, 0.01, 1e-6)])
def test_against_scikit_learn(n, noise, alpha):
    signals, codes = problem(n, noise)
    peer, model = ridge(signals, codes), probe(signals, codes)
    assert peer.alpha_ == alpha
    atol = 2e-3 * np.abs(peer.coef_).max()
    np.testing.assert_allclose(model.encoder.weight, peer.coef_.T, atol=atol)
    found, atol = Linear()(model, jnp.asarray(signals)), 2e-3 * np.abs(codes).max()
    np.testing.assert_allclose(found, peer.predict(signals), atol=atol)


def test_on_the_generative_model(task):
    peer = ridge(np.asarray(task.train.signals), np.asarray(task.train.codes))
    model = fit(LinearProbe(), [task], [jax.random.key(0)])[0].end.model
    np.testing.assert_allclose(model.encoder.weight, peer.coef_.T, atol=1e-4)
    assert model.dictionary is None and not model.bias.any() and not model.encoder.bias.any()


def test_sparse_codes_give_the_weights_of_the_dense_ones():
    signals, codes = problem(60, 0.1)
    # Latents that are never on.
    codes[:, [0, 3]] = 0
    splits = [Split(jnp.asarray(signals), form) for form in (jnp.asarray(codes), csr_array(codes))]
    tasks = [Task(split, split, split, width=5) for split in splits]
    dense, sparse = (fit(LinearProbe(), [task], [0])[0].end.model.encoder.weight for task in tasks)
    np.testing.assert_allclose(sparse, dense, atol=1e-6)
    assert not sparse[:, [0, 3]].any()


def test_the_penalties_are_the_callers():
    signals, codes = problem(40, 1.0)
    model = probe(signals, codes, LinearProbe(alphas=(5.0,)))
    expected = np.linalg.solve(signals.T @ signals + 5 * np.eye(12), signals.T @ codes)
    np.testing.assert_allclose(model.encoder.weight, expected, rtol=1e-3, atol=1e-4)
    assert LinearProbe().alphas == ALPHAS


@pytest.mark.parametrize("duplicate", [True, False], ids=["dependent", "zero"])
def test_a_direction_without_data_gets_no_weight(duplicate):
    signals, codes = problem(50, 0.1)
    signals[:, 3] = signals[:, 2] if duplicate else 0
    weight = np.asarray(probe(signals, codes).encoder.weight)
    peer = ridge(signals, codes)
    np.testing.assert_allclose(weight, peer.coef_.T, atol=5e-3 * np.abs(peer.coef_).max())
