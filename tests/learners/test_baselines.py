"""Learners without steps of their own, and those of other libraries: against scikit-learn, SPAMS and
NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import spams
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import fixture, mark
from scipy.sparse import csr_array
from sklearn import decomposition
from sklearn.linear_model import RidgeCV

from sae_gap import Setting, Split, Task, draw, fit, match_atoms, sparse_code
from sae_gap.core import Model
from sae_gap.encoders import Linear, TopK, unit_atoms
from sae_gap.learners import (
    PCA,
    LinearProbe,
    Oracle,
    Samples,
    SklearnMiniBatch,
    SpamsTrainDL,
    Surgery,
)

KEY = jax.random.key(0)


def learned(learner, task, num_samples, num_latents):
    train = Split(task.train.signals[:num_samples])
    small = Task(train, task.id, task.ood, width=num_latents)
    return fit(learner, [small], [KEY])[0].end.model, np.asarray(train.signals)


# No more than latents, samples or dimensions.
@mark.parametrize(
    ("num_samples", "num_latents", "width"), [(100, 20, 12), (100, 5, 5), (7, 20, 6)]
)
def test_components_against_scikit_learn(task, num_samples, num_latents, width):
    model, signals = learned(PCA(), task, num_samples, num_latents)
    peer = decomposition.PCA(width).fit(signals.astype(float))
    assert_allclose(model.bias, peer.mean_, atol=1e-6)
    atoms = np.asarray(model.dictionary)[:, :width]
    assert_allclose(abs(atoms), abs(peer.components_.T), atol=1e-4)
    codes = np.asarray(Linear()(model, task.id.signals))[:, :width]
    assert_allclose(
        abs(codes), abs(peer.transform(np.asarray(task.id.signals))), atol=1e-4
    )
    assert model.dictionary.shape[1] == min(num_samples, num_latents, 12)


def test_samples_are_rows_less_their_mean(task):
    model, signals = learned(Samples(), task, 100, 20)
    rows = signals - np.mean(signals, axis=0)
    rows = rows / norm(rows, axis=1, keepdims=True)
    cosines = rows @ np.asarray(model.dictionary)
    assert_allclose(cosines.max(axis=0), 1, rtol=1e-5)
    assert len({*cosines.argmax(axis=0)}) == 20


# The more noise, the larger the penalty that is best; with fewer samples than dimensions every fit
# without one is exact; a direction may depend on another, or have no data.
@mark.parametrize(
    ("n", "noise", "alpha", "third"),
    [
        (200, 0, 1e-6, 1),
        (200, 0.3, 1e-2, 1),
        (40, 30.0, 10.0, 1),
        (9, 0.5, 1.0, 1),
        (50, 0.1, None, "second"),
        (50, 0.1, None, 0),
    ],
)
def test_against_scikit_learn(n, noise, alpha, third):
    rng = default_rng(0)
    signals = rng.normal(size=(n, 12))
    codes = signals @ rng.normal(size=(12, 5)) + noise * rng.normal(size=(n, 5))
    # A latent that is never on.
    codes[:, 2] = 0
    signals[:, 3] = signals[:, 2] if third == "second" else third * signals[:, 3]
    penalties = (1e-6, 1e-4, 1e-2, 1.0, 10.0)
    peer = RidgeCV(penalties, fit_intercept=False, alpha_per_target=False).fit(
        signals, codes
    )
    assert alpha in (None, peer.alpha_)
    atol = 5e-3 * abs(peer.coef_).max()
    for form in (jnp.asarray, csr_array):
        train = Split(jnp.float32(signals), form(np.float32(codes)))
        model = fit(LinearProbe(), [Task(train, train, train, width=5)], [KEY])[
            0
        ].end.model
        assert_allclose(model.encoder.weight, peer.coef_.T, atol=atol)
        assert not model.encoder.weight[:, 2].any()
        found = Linear()(model, train.signals)
        assert_allclose(found, peer.predict(signals), atol=2e-3 * abs(codes).max())


@mark.parametrize("columns", ["renormed", "oracle_norms"])
def test_lengths_alone_are_changed(task, columns):
    """True atoms of many lengths in another order, with others and signs, and as many again at
    random, which match none.
    """
    rng = default_rng(0)
    wanted = np.linspace(0.5, 2, 20)
    order = rng.permutation(20)
    truth = np.asarray(task.dictionary) * wanted
    other = rng.uniform(0.1, 2, 20) * rng.choice([-1, 1], 20)
    atoms = np.concatenate(
        [truth[:, order] * other, rng.normal(size=truth.shape)], axis=1
    )
    base = TopK(3).parameters(jnp.asarray(atoms), KEY)
    base = Model(jnp.float32(atoms), jnp.ones(len(atoms)), base)
    learner = Surgery(columns, base=Oracle())
    data = learner.select(
        Task(task.train, task.id, task.ood, jnp.asarray(truth), width=40)
    )
    found = learner.learn(data, num_latents=40, key=None, base=base)
    lengths = np.concatenate([wanted[order], norm(atoms[:, 20:], axis=0)])
    assert_allclose(
        norm(found.dictionary, axis=0),
        1 if columns == "renormed" else lengths,
        rtol=1e-5,
    )
    assert_allclose(
        unit_atoms(found.dictionary)[0], unit_atoms(base.dictionary)[0], atol=1e-6
    )
    assert found.bias is base.bias and found.encoder is base.encoder


@fixture(scope="module")
def drawn():
    return draw(Setting(20, 3, 1_000))


@mark.parametrize("peer", [SpamsTrainDL, SklearnMiniBatch])
def test_a_peer_recovers_a_small_dictionary(peer, drawn):
    end = fit(peer(batch_size=64, num_steps=40), [drawn], [KEY])[0].end
    assert_allclose(norm(end.model.dictionary, axis=0), 1, atol=1e-3)
    assert abs(match_atoms(end.model.dictionary, drawn.dictionary).cosine).mean() > 0.8
    assert end.step == 40 and not np.any(end.model.bias)


def test_their_weight_is_ours(drawn):
    """At one λ the codes that each library trains on are those of our lasso, and at another they
    are not.
    """

    signals = np.asarray(drawn.id.signals[:20])
    atoms = np.asarray(drawn.dictionary)
    ours = np.asarray(sparse_code(signals, atoms, 0.1).codes)
    columns = np.asfortranarray(signals.T)
    options = {"lambda1": 0.1, "mode": 2, "pos": True, "numThreads": 1}
    theirs = spams.lasso(columns, D=np.asfortranarray(atoms), **options).toarray().T
    assert_allclose(theirs, ours, atol=2e-3)
    for lam, same in ((0.1, True), (0.1 * len(atoms), False)):
        peer = SklearnMiniBatch(lam, num_steps=1)
        estimator = peer.train(signals, atoms, default_rng(0))
        estimator.components_ = np.ascontiguousarray(atoms.T, np.float64)
        assert (
            np.allclose(
                estimator.transform(signals.astype(np.float64)), ours, atol=1e-2
            )
            == same
        )
