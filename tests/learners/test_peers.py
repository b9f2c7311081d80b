"""Learners of other libraries: they solve our problem at our λ, have their seeds, and say when they
are not installed.
"""

import sys

import jax
import numpy as np
import pytest

from sae_gap import Setting, draw, fit, match_atoms, sparse_code
from sae_gap.core.types import Split
from sae_gap.learners.sklearn_mini_batch import SklearnMiniBatch
from sae_gap.learners.spams_train_dl import SpamsTrainDL

PEERS = {"spams": SpamsTrainDL, "sklearn": SklearnMiniBatch}


@pytest.fixture(scope="module")
def tasks():
    return [draw(Setting(20, 3, 1_000, seed=seed)) for seed in (0, 1)]


@pytest.fixture(scope="module", params=PEERS)
def learner(request):
    return PEERS[request.param](batch_size=64, num_steps=40)


def keys(*seeds):
    return [jax.random.key(seed) for seed in seeds]


def test_a_peer_recovers_a_small_dictionary(learner, tasks):
    fitted = fit(learner, tasks, keys(0, 1))
    for task, one, key in zip(tasks, fitted, keys(0, 1), strict=True):
        model = one.end.model
        assert model.dictionary.shape == (12, 20)
        assert model.dictionary.dtype == task.dictionary.dtype
        np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=0), 1, atol=1e-3)
        assert not np.any(model.bias) and model.encode is None
        shorter = type(learner)(batch_size=64, num_steps=1)
        start = shorter.learn(Split(task.train.signals), num_latents=20, key=key)
        found, before = (
            np.abs(match_atoms(one.dictionary, task.dictionary).cosine).mean()
            for one in (model, start)
        )
        assert found > max(0.8, before + 0.05)
        assert one.end.step == 40 and one.compile_seconds == 0 and one.end.seconds > 0


def test_fewer_samples_than_latents_are_enough_to_start_from(learner):
    few = Split(draw(Setting(20, 3, 20)).train.signals)
    assert np.isfinite(learner.learn(few, num_latents=20, key=keys(0)[0]).dictionary).all()


def test_their_weight_is_ours(tasks):
    """At one λ the codes that each library trains on are those of our lasso, and at another they
    are not.
    """
    import spams

    signals, atoms = np.asarray(tasks[0].id.signals[:20]), np.asarray(tasks[0].dictionary)
    ours = np.asarray(sparse_code(signals, atoms, 0.1).codes)
    columns = np.asfortranarray(signals.T)
    options = {"lambda1": 0.1, "mode": 2, "pos": True, "numThreads": 1}
    theirs = spams.lasso(columns, D=np.asfortranarray(atoms), **options).toarray().T
    np.testing.assert_allclose(theirs, ours, atol=2e-3)
    for lam, same in ((0.1, True), (0.1 * len(atoms), False)):
        peer = SklearnMiniBatch(lam, num_steps=1)
        estimator = peer.train(signals, atoms, np.random.default_rng(0))
        estimator.components_ = np.ascontiguousarray(atoms.T, np.float64)
        assert np.allclose(estimator.transform(signals.astype(np.float64)), ours, atol=1e-2) == same


@pytest.mark.parametrize("peer", PEERS.values())
def test_an_absent_library_is_an_import_error(peer, monkeypatch):
    monkeypatch.setitem(sys.modules, peer.module, None)
    with pytest.raises(ImportError):
        peer.library()
