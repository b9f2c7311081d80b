"""Learners of other libraries: they solve our problem at our λ, have their seeds, and say when they
are not installed.
"""

import sys

import jax
import numpy as np
import pytest

from sae_gap import Setting, draw, fit, match_atoms, sparse_code
from sae_gap.core import Split
from sae_gap.learners import SklearnMiniBatch, SpamsTrainDL

KEY = jax.random.key(0)
both = pytest.mark.parametrize("peer", [SpamsTrainDL, SklearnMiniBatch])


@pytest.fixture(scope="module")
def drawn():
    return draw(Setting(20, 3, 1_000))


@both
def test_a_peer_recovers_a_small_dictionary(peer, drawn):
    found, start = (
        fit(peer(batch_size=64, num_steps=steps), [drawn], [KEY])[0].end for steps in (40, 1)
    )
    model = found.model
    np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=0), 1, atol=1e-3)
    right, before = (
        np.abs(match_atoms(end.model.dictionary, drawn.dictionary).cosine).mean()
        for end in (found, start)
    )
    assert right > max(0.8, before + 0.05)
    assert (found.step, model.encode) == (40, None) and not np.any(model.bias)


@both
def test_fewer_samples_than_latents_are_enough_to_start_from(peer, drawn):
    few = Split(drawn.train.signals[:10])
    assert np.isfinite(peer(num_steps=2).learn(few, num_latents=20, key=KEY).dictionary).all()


def test_their_weight_is_ours(drawn):
    """At one λ the codes that each library trains on are those of our lasso, and at another they
    are not.
    """
    import spams

    signals, atoms = np.asarray(drawn.id.signals[:20]), np.asarray(drawn.dictionary)
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


@both
def test_an_absent_library_is_an_import_error(peer, monkeypatch):
    monkeypatch.setitem(sys.modules, peer.module, None)
    with pytest.raises(ImportError):
        peer.library()
