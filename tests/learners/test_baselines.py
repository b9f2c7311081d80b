"""The raw signals, and principal components against scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import decomposition

from sae_gap import Split, Task, fit
from sae_gap.encoders.linear import Linear
from sae_gap.learners.baselines import PCA, Samples

KEY = jax.random.key(0)


def test_components_against_scikit_learn(task):
    model = fit(PCA(), [task], [KEY])[0].end.model
    peer = decomposition.PCA().fit(np.asarray(task.train.signals, np.float64))
    np.testing.assert_allclose(model.bias, peer.mean_, atol=1e-6)
    codes = np.asarray(Linear()(model, task.id.signals))
    np.testing.assert_allclose(
        np.abs(codes), np.abs(peer.transform(np.asarray(task.id.signals))), atol=1e-4
    )
    np.testing.assert_allclose(
        codes @ np.asarray(model.dictionary).T + model.bias, task.id.signals, atol=1e-5
    )
    assert model.dictionary.shape == (12, 12) and Linear().signed


@pytest.mark.parametrize(("num_samples", "num_latents", "width"), [(100, 5, 5), (7, 20, 7)])
def test_there_are_no_more_components_than_latents_or_samples(
    task, num_samples, num_latents, width
):
    signals = task.train.signals[:num_samples]
    small = Task(Split(signals), task.id, task.ood, width=num_latents)
    atoms = np.asarray(fit(PCA(), [small], [KEY])[0].end.model.dictionary)
    assert atoms.shape == (12, width)
    np.testing.assert_allclose(atoms.T @ atoms, np.eye(width), atol=1e-5)


def test_samples_are_rows_less_their_mean(task):
    small = Task(task.train, task.id, task.ood, width=3)
    model = fit(Samples(), [small], [KEY])[0].end.model
    rows = np.asarray(task.train.signals - model.bias)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose((rows @ model.dictionary).max(axis=0), 1, rtol=1e-5)
