"""Encoders for a given dictionary: what is frozen, a step of Adam by hand, and that training brings
them to the optimum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sae_gap import fit
from sae_gap.core import Model, Split
from sae_gap.encoders import LISTA, JumpReLU, ReLU, TopK, encode
from sae_gap.learners import Among, Amortised, Lista, SparseAutoencoder
from sae_gap.solvers import sparse_code

ENCODERS = (ReLU(), TopK(3), JumpReLU(), LISTA(4))
BASE = SparseAutoencoder(TopK(3), num_steps=2)
KEY = jax.random.key(0)
begin = eqx.filter_jit(
    lambda learner, data, base: learner.init(data, num_latents=20, key=KEY, base=base)
)


@pytest.fixture(scope="module")
def base(task):
    """Of a dictionary with a bias, whose atoms are twice as long."""
    return Model(2 * task.dictionary, jnp.linspace(-0.2, 0.2, 12))


@pytest.fixture(scope="module")
def learner():
    return Amortised(ENCODERS, base=BASE, num_steps=100, learning_rate=5e-3)


@pytest.fixture(scope="module")
def start(learner, task, base):
    return begin(learner, learner.select(task), base)


@pytest.fixture(scope="module")
def model(learner, task, base):
    return fit(learner, [task], [KEY], bases=[base])[0].end.model


def test_the_targets_are_certified_codes_on_the_frozen_dictionary(task, start, model, base):
    solution = sparse_code(task.train.signals - base.bias, task.dictionary, 0.1)
    assert solution.converged.all()
    np.testing.assert_allclose(start.codes, solution.codes, atol=1e-4)
    for of in (start.model, model):
        np.testing.assert_allclose(of.dictionary, task.dictionary, atol=1e-6)
        np.testing.assert_array_equal(of.bias, base.bias)
    assert model.encode is None and Amortised(ENCODERS[:1], base=BASE).encode == Among(ENCODERS[0])


@pytest.mark.parametrize("place", range(len(ENCODERS)))
def test_training_lowers_the_distance_to_the_optimum(learner, model, start, task, place):
    found, before = (
        jnp.mean((encode(learner.members[place], of, task.train.signals) - start.codes) ** 2)
        for of in (model, start.model)
    )
    assert found < 0.75 * before


def test_epochs_of_lista_are_steps_of_adam_over_their_batches(task, base):
    with jax.enable_x64(True):
        signals, base = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (task.train.signals, base)
        )
        learner = Lista(LISTA(3, factored=False, threshold=0.01), base=BASE, num_steps=2)
        data, bias = Split(signals), base.bias
        state = begin(learner, data, base)
        (parts,), rule, key = state.model.encoder, optax.adam(1e-3), state.key
        moments, dictionary = rule.init(parts), state.model.dictionary

        @jax.jit
        def slopes(parts, batch):
            def loss(parts):
                codes = learner.encoder(Model(dictionary, bias, parts), batch)
                error = batch - bias - codes @ dictionary.T
                return jnp.mean(error**2) + 0.1 * jnp.mean(codes)

            return jax.grad(loss)(parts)

        advance = eqx.filter_jit(learner.step)
        for _ in range(2):
            shuffle_key, key = jax.random.split(key)
            order = jax.random.permutation(shuffle_key, 100)
            state = advance(data, state)
            for first in (0, 64):
                gradient = slopes(parts, signals[order[first : first + 64]])
                updates, moments = rule.update(gradient, moments)
                parts = optax.apply_updates(parts, updates)
        found = jax.tree.leaves(learner.model(state).encoder)
    for ours, theirs in zip(found, jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
