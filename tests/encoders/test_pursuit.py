"""Orthogonal matching pursuit against a loop in NumPy that solves its least squares with lstsq, in
the units of the model's atoms.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import encode
from sae_gap.encoders.pursuit import OMP, GradientPursuit


@pytest.mark.parametrize("kind", [OMP, GradientPursuit])
def test_by_hand(kind):
    """On the axes a pursuit takes the largest coordinates, and none that is negative for
    non-negative codes.
    """
    model, signals = (
        Model(2 * jnp.eye(3), jnp.ones(3)),
        jnp.array([[3.0, 1.0, 2.0], [0.0, -1.0, -3.0]]),
    )
    np.testing.assert_allclose(kind(2)(model, signals), [[1, 0, 0.5], [0, -1, -2]], atol=1e-6)
    found = kind(2, nonneg=True)(model, signals)
    np.testing.assert_allclose(found, [[1, 0, 0.5], [0, 0, 0]], atol=1e-6)


@pytest.fixture(scope="module")
def model(task):
    rng = np.random.default_rng(0)
    dictionary = np.asarray(task.dictionary) * rng.uniform(0.3, 3, 20)
    return Model(
        jnp.asarray(dictionary, jnp.float32), jnp.asarray(0.1 * rng.normal(size=12), jnp.float32)
    )


def arrays(model, task):
    dictionary = np.asarray(model.dictionary, np.float64)
    return (
        np.asarray(task.id.signals - model.bias, np.float64),
        dictionary,
        np.linalg.norm(dictionary, axis=0),
    )


def omp(signal, dictionary, lengths, k):
    chosen, rest, values = [], signal, np.zeros(0)
    for _ in range(k):
        score = np.abs(rest @ dictionary) / lengths
        score[chosen] = -1
        chosen.append(int(np.argmax(score)))
        values = np.linalg.lstsq(dictionary[:, chosen], signal, rcond=None)[0]
        rest = signal - dictionary[:, chosen] @ values
    codes = np.zeros(dictionary.shape[1])
    codes[chosen] = values
    return codes


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_a_loop(model, task, k):
    signals, dictionary, lengths = arrays(model, task)
    expected = np.stack([omp(signal, dictionary, lengths, k) for signal in signals])
    found = encode(OMP(k), model, task.id.signals)
    # A tie within rounding may go either way.
    same = np.isclose(found, expected, atol=1e-3).all(axis=1)
    assert same.mean() > 0.97
    assert (np.count_nonzero(found, axis=1) <= k).all()


def test_more_atoms_than_there_can_be_are_refused(model, task):
    with pytest.raises(ValueError, match="num_atoms"):
        OMP(13)(model, task.id.signals)
