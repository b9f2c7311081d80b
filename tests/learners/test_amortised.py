"""Encoders for a given dictionary: what is frozen, a step of Adam by hand, and that depth brings
them to the optimum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sae_gap import amortisation_gap, fit
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import encode, unit_atoms
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised, Lista
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.solvers import sparse_code

ENCODERS = (ReLU(), TopK(3), JumpReLU(), LISTA(1), LISTA(4))
KEY = jax.random.key(0)


@eqx.filter_jit
def begin(learner, data, bias, dictionary):
    return learner.init(data, num_latents=20, key=KEY, base=Model(dictionary, bias))


@pytest.fixture(scope="module")
def learner():
    return Amortised(ENCODERS, base=Oracle(), num_steps=100, learning_rate=5e-3)


@pytest.fixture(scope="module")
def model(learner, task):
    return fit(learner, [task], [KEY])[0].end.model


@pytest.fixture(scope="module")
def start(learner, task):
    return begin(learner, learner.select(task), jnp.zeros(12), task.dictionary)


def test_the_targets_are_certified_codes_on_unit_atoms(task, learner):
    bias = jnp.linspace(-0.2, 0.2, 12)
    start = begin(learner, learner.select(task), bias, 2 * task.dictionary)
    solution = sparse_code(task.train.signals - bias, task.dictionary, 0.1)
    assert solution.converged.all()
    np.testing.assert_allclose(start.codes, solution.codes, atol=1e-4)
    np.testing.assert_allclose(start.model.dictionary, task.dictionary, atol=1e-6)


def test_the_dictionary_is_frozen(model, start):
    np.testing.assert_array_equal(model.dictionary, start.model.dictionary)
    np.testing.assert_array_equal(model.bias, start.model.bias)


@pytest.mark.parametrize("place", range(len(ENCODERS)))
def test_training_lowers_the_distance_to_the_optimum(learner, model, start, task, place):
    member = learner.members[place]

    def distance(model):
        return float(jnp.mean((encode(member, model, task.train.signals) - start.codes) ** 2))

    assert distance(model) < 0.75 * distance(start.model)
    assert amortisation_gap(model, task.id.signals, 0.1, encode=member).gap.min() >= 0


def test_an_encoder_is_trained_alike_alone_and_in_company(model, task):
    learner = Amortised(ENCODERS[3:4], base=Oracle(), num_steps=100, learning_rate=5e-3)
    alone = fit(learner, [task], [KEY])[0].end.model
    np.testing.assert_allclose(alone.encoder[0].weight, model.encoder[3].weight, atol=1e-4)
    assert alone.encode.encoder == ENCODERS[3] and model.encode is None
    codes = encode(alone.encode, alone, task.ood.signals)
    own = eqx.tree_at(lambda m: m.encoder, alone, alone.encoder[0])
    np.testing.assert_allclose(codes, encode(ENCODERS[3], own, task.ood.signals))


def test_the_dictionary_is_that_of_the_base_with_unit_atoms(task):
    base = SparseAutoencoder(TopK(3), num_steps=2)
    (fitted,) = fit(Amortised((ReLU(),), base=base, num_steps=2), [task], [KEY])
    other = fit(base, [task], [KEY])[0].end.model
    model = fitted.end.model
    np.testing.assert_allclose(model.dictionary, unit_atoms(other.dictionary)[0], atol=1e-5)
    np.testing.assert_allclose(model.bias, other.bias, atol=1e-6)
    assert np.abs(np.linalg.norm(other.dictionary, axis=0) - 1).max() > 1e-4
    assert fitted.end.step == 2
    assert Amortised((ReLU(),), base=base).coordinates == {"dictionary": "topk"}


def test_epochs_of_lista_are_steps_of_adam_over_their_batches(task):
    with jax.enable_x64(True):
        task = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), task)
        learner = Lista(LISTA(3, factored=False, threshold=0.01), base=Oracle(), num_steps=2)
        data, bias = learner.select(task), jnp.linspace(-0.2, 0.2, 12)
        state = begin(learner, data, bias, task.dictionary)
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
            for start in (0, 64):
                batch = data.signals[order[start : start + 64]]
                updates, moments = rule.update(slopes(parts, batch), moments)
                parts = optax.apply_updates(parts, updates)
        found = jax.tree.leaves(learner.model(state).encoder)
    for ours, theirs in zip(found, jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
