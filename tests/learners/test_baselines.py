"""Principal components and training samples against scikit-learn and NumPy."""

import jax
import numpy as np
import pytest
from sklearn import decomposition

from sae_gap import Split, Task, fit
from sae_gap.encoders import Linear
from sae_gap.learners import PCA, Samples


def learned(learner, task, num_samples, num_latents):
    train = Split(task.train.signals[:num_samples])
    small = Task(train, task.id, task.ood, width=num_latents)
    return fit(learner, [small], [jax.random.key(0)])[0].end.model, np.asarray(train.signals)


# No more than latents, samples or dimensions.
@pytest.mark.parametrize(
    ("num_samples", "num_latents", "width"), [(100, 20, 12), (100, 5, 5), (7, 20, 6)]
)
def test_components_against_scikit_learn(task, num_samples, num_latents, width):
    model, signals = learned(PCA(), task, num_samples, num_latents)
    peer = decomposition.PCA(width).fit(signals.astype(float))
    np.testing.assert_allclose(model.bias, peer.mean_, atol=1e-6)
    atoms = np.asarray(model.dictionary)[:, :width]
    np.testing.assert_allclose(np.abs(atoms), np.abs(peer.components_.T), atol=1e-4)
    codes = np.asarray(Linear()(model, task.id.signals))[:, :width]
    np.testing.assert_allclose(
        np.abs(codes), np.abs(peer.transform(np.asarray(task.id.signals))), atol=1e-4
    )
    assert model.dictionary.shape[1] == min(num_samples, num_latents, 12)


def test_samples_are_rows_less_their_mean(task):
    model, signals = learned(Samples(), task, 100, 20)
    rows = signals - np.mean(signals, axis=0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ np.asarray(model.dictionary)
    np.testing.assert_allclose(cosines.max(axis=0), 1, rtol=1e-5)
    assert len({*cosines.argmax(axis=0)}) == 20
