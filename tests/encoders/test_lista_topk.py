"""Steps of LISTA between which the largest codes are kept, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.lista_topk import LISTATopK

K = 3


def problem(seed=0):
    rng = np.random.default_rng(seed)
    dictionary, bias, signals = (
        rng.normal(size=shape).astype(np.float32) for shape in ((5, 9), 5, (12, 5))
    )
    return Model(jnp.asarray(dictionary), jnp.asarray(bias)), signals, rng


def largest(hidden):
    return np.where(hidden >= np.sort(hidden, axis=1)[:, -K, None], np.maximum(hidden, 0), 0)


def test_each_step_encodes_what_the_codes_so_far_leave():
    model, signals, rng = problem()
    encoder = LISTATopK(K, depth=3)
    initial = encoder.parameters(model.dictionary, jax.random.key(0))
    parameters = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), initial
    )
    dictionary, target, codes = (
        np.asarray(model.dictionary),
        signals - np.asarray(model.bias),
        np.zeros((12, 9)),
    )
    for step in parameters.steps:
        codes = largest(
            codes
            + (target - codes @ dictionary.T) @ np.asarray(step.weight)
            + np.asarray(step.bias)
        )
    found = encoder(Model(model.dictionary, model.bias, parameters), signals)
    np.testing.assert_allclose(found, codes, rtol=1e-3, atol=1e-4)
    assert len(parameters.steps) == 3 and (np.count_nonzero(codes, axis=1) <= K).all()
