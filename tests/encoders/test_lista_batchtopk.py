"""Steps of LISTA between which a threshold, or in training the batch, decides which codes stay:
against a loop in NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.lista_batchtopk import LISTABatchTopK

K, RATE = 2, 0.25


def problem(seed, depth):
    rng = np.random.default_rng(seed)
    dictionary, bias, signals = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 9), 5, (12, 5))
    )
    encoder = LISTABatchTopK(K, depth=depth, rate=RATE)
    parameters = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(np.abs(rng.normal(size=leaf.shape)), jnp.float32),
        encoder.parameters(0.3 * dictionary, jax.random.key(0)),
    )
    return encoder, Model(dictionary, bias, parameters), signals


def by_hand(model, signals, keep):
    """The codes of each step in NumPy."""
    dictionary, target = np.asarray(model.dictionary), np.asarray(signals) - np.asarray(model.bias)
    codes = [np.zeros((len(target), dictionary.shape[1]))]
    for number, step in enumerate(model.encoder.steps):
        left = target - codes[-1] @ dictionary.T
        hidden = np.maximum(codes[-1] + left @ np.asarray(step.weight) + np.asarray(step.bias), 0)
        codes.append(keep(hidden, number))
    return codes[1:]


def test_a_step_keeps_what_exceeds_its_own_threshold():
    encoder, model, signals = problem(0, 3)
    theta = np.asarray(model.encoder.thresholds)
    found = encoder(model, signals)
    *_, expected = by_hand(
        model, signals, lambda hidden, step: np.where(hidden > theta[step], hidden, 0)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert 0 < np.mean(expected != 0) < 1 and len(set(theta)) == 3


def test_training_keeps_the_largest_of_the_batch_and_moves_each_threshold_towards_the_smallest_of_them():
    encoder, model, signals = problem(1, 3)

    def keep(hidden, _):
        return np.where(hidden >= np.sort(hidden, axis=None)[-K * len(hidden)], hidden, 0)

    codes = by_hand(model, signals, keep)
    errors, seen = encoder.loss(model, signals, 0.0)
    left = np.asarray(signals) - np.asarray(model.bias) - codes[-1] @ np.asarray(model.dictionary).T
    np.testing.assert_allclose(errors, np.mean(left**2, axis=1), rtol=1e-3)
    before = np.asarray(model.encoder.thresholds)
    smallest = np.array([each[each > 0].min() for each in codes])
    np.testing.assert_allclose(seen, before + RATE * (smallest - before), rtol=1e-3)
    np.testing.assert_array_equal(encoder.observe(model, seen).encoder.thresholds, seen)
