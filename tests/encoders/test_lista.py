"""LISTA: untrained it is ISTA to the iteration, and trained layers are those of a loop in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.lista import LISTA
from sae_gap.solvers import fista

LAM = 0.1


def problem(seed=0, n=12, input_dim=5, num_latents=9):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(input_dim, num_latents))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    return (
        jnp.asarray(dictionary),
        jnp.asarray(rng.normal(size=input_dim) / 9),
        jnp.asarray(rng.normal(size=(n, input_dim))),
    )


@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
@pytest.mark.parametrize("depth", [1, 2, 16])
def test_an_untrained_network_is_ista(depth, factored):
    dictionary, bias, signals = problem()
    encoder = LISTA(depth, LAM, factored)
    model = Model(dictionary, bias, encoder.parameters(dictionary, jax.random.key(0)))
    expected = fista.fixed(signals - bias, dictionary, LAM, iterations=depth, momentum=False)
    np.testing.assert_allclose(eqx.filter_jit(encoder)(model, signals), expected, atol=1e-5)


@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
def test_layers_have_their_own_parameters(factored):
    dictionary, bias, signals = problem()
    encoder, depth = LISTA(4, LAM, factored), 4
    rng = np.random.default_rng(1)
    initial = encoder.parameters(dictionary, jax.random.key(0))
    parameters = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), initial)
    target, codes = np.asarray(signals - bias), np.zeros((12, 9))
    for layer in range(depth):
        weight, threshold = (
            np.asarray(parameters.weight[layer]),
            np.asarray(parameters.threshold[layer]),
        )
        if factored:
            codes = np.maximum(
                codes + (target - codes @ np.asarray(dictionary).T) @ weight - threshold, 0
            )
        else:
            carried = codes @ np.asarray(parameters.recurrence[layer - 1]) if layer else 0
            codes = np.maximum(target @ weight + carried - threshold, 0)
    np.testing.assert_allclose(
        encoder(Model(dictionary, bias, parameters), signals), codes, rtol=1e-4, atol=1e-5
    )
