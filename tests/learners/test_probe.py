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
from sae_gap.encoders import Linear
from sae_gap.learners import LinearProbe

ALPHAS = LinearProbe().alphas


# The more noise, the larger the penalty that is best; with fewer samples than dimensions every fit
# without one is exact; a direction may depend on another, or have no data.
@pytest.mark.parametrize(
    ("n", "noise", "alpha", "third"),
    [
        (200, 0, 1e-6, 1),
        (200, 0.1, 1e-4, 1),
        (200, 0.3, 1e-2, 1),
        (60, 3.0, 1.0, 1),
        (40, 30.0, 10.0, 1),
        (9, 0.5, 1.0, 1),
        (8, 0.01, 1e-6, 1),
        (50, 0.1, None, "second"),
        (50, 0.1, None, 0),
    ],
)
@pytest.mark.parametrize("alphas", [ALPHAS, (5.0,)])
def test_against_scikit_learn(n, noise, alpha, third, alphas):
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(n, 12))
    codes = signals @ rng.normal(size=(12, 5)) + noise * rng.normal(size=(n, 5))
    signals[:, 3] = signals[:, 2] if third == "second" else third * signals[:, 3]
    train = Split(jnp.asarray(signals, jnp.float32), jnp.asarray(codes, jnp.float32))
    task = Task(train, train, train, width=5)
    model = fit(LinearProbe(alphas=alphas), [task], [jax.random.key(0)])[0].end.model
    peer = RidgeCV([*alphas], fit_intercept=False, alpha_per_target=False).fit(signals, codes)
    assert alphas != ALPHAS or peer.alpha_ == alpha or alpha is None
    atol = 5e-3 * np.abs(peer.coef_).max()
    np.testing.assert_allclose(model.encoder.weight, peer.coef_.T, atol=atol)
    found, atol = Linear()(model, train.signals), 2e-3 * np.abs(codes).max()
    np.testing.assert_allclose(found, peer.predict(signals), atol=atol)


def test_sparse_codes_give_the_weights_of_the_dense_ones():
    rng = np.random.default_rng(0)
    signals, codes = rng.normal(size=(60, 12)), rng.normal(size=(60, 5))
    # Latents that are never on.
    codes[:, [0, 3]] = 0
    splits = [Split(jnp.asarray(signals), form) for form in (jnp.asarray(codes), csr_array(codes))]
    tasks = [Task(split, split, split, width=5) for split in splits]
    dense, sparse = (fit(LinearProbe(), [task], [0])[0].end.model.encoder.weight for task in tasks)
    np.testing.assert_allclose(sparse, dense, atol=1e-6)
    assert not sparse[:, [0, 3]].any()
