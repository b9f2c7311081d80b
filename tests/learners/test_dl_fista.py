"""Alternating dictionary learning against rounds written in NumPy, and when it stops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Split, fit
from sae_gap.learners import DLFista

KEY = jax.random.key(0)


def fista(signals, dictionary, codes, lam, iterations):
    rate = 1 / np.linalg.norm(dictionary, 2) ** 2
    point, t = codes, 1.0
    for _ in range(iterations):
        new = np.maximum(point + rate * ((signals - point @ dictionary.T) @ dictionary - lam), 0)
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2
        point, codes, t = new + (t - 1) / following * (new - codes), new, following
    return codes


def update(signals, codes):
    dictionary = signals.T @ codes @ np.linalg.inv(codes.T @ codes + 1e-6 * np.eye(codes.shape[1]))
    lengths = np.linalg.norm(dictionary, axis=0)
    return dictionary / np.where(lengths > 0, lengths, 1)


# At the larger weight some atoms are not used, become zero and stay dead.
@pytest.mark.parametrize(("lam", "dies"), [(0.1, False), (0.5, True)])
def test_rounds_against_numpy(task, lam, dies):
    with jax.enable_x64(True):
        signals = np.asarray(task.train.signals, np.float64)
        learner, data = DLFista(lam, num_iterations=100), Split(jnp.asarray(signals))
        state = eqx.filter_jit(learner.init)(data, num_latents=20, key=KEY)
        step = eqx.filter_jit(learner.step)
        dictionary, codes = np.asarray(state.dictionary), np.zeros((100, 20))
        np.testing.assert_allclose(np.linalg.norm(dictionary, axis=0), 1, rtol=1e-12)
        for number in range(1, 4):
            state = step(data, state)
            codes = fista(signals, dictionary, codes, lam, 100)
            following = update(signals, codes)
            np.testing.assert_allclose(state.codes, codes, atol=1e-8)
            np.testing.assert_allclose(state.dictionary, following, atol=1e-6)
            change = np.linalg.norm(following - dictionary) / np.linalg.norm(dictionary)
            assert float(state.change) == pytest.approx(change, rel=1e-5)
            assert int(state.round) == number
            dictionary = following
        assert (not dictionary.any(axis=0).all()) == dies
        np.testing.assert_array_equal(learner.model(state).dictionary, state.dictionary)


# Any change is below a tolerance of 1e9, but the first ten rounds are run all the same.
@pytest.mark.parametrize(("tol", "expected"), [(1e9, 11), (0.0, 15)])
def test_when_it_stops(task, tol, expected):
    learner = DLFista(num_steps=15, num_iterations=5, tol=tol)
    assert fit(learner, [task], [KEY])[0].end.step == expected
