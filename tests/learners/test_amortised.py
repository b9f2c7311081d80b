"""Encoders for a given dictionary: what is frozen, a step of Adam by hand, and that depth brings
them to the optimum.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Models, amortisation_gap, fit
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import encode, unit_atoms
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised, Lista
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sklearn_mini_batch import SklearnMiniBatch
from sae_gap.learners.spams_train_dl import SpamsTrainDL
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.solvers import sparse_code

ENCODERS = (ReLU(), TopK(3), JumpReLU(), LISTA(1), LISTA(4))
KEY = jax.random.key(0)


def truth(task):
    return Model(task.dictionary, jnp.zeros(12))


@pytest.fixture(scope="module")
def learner():
    return Amortised(ENCODERS, base=Oracle(), num_steps=100, learning_rate=5e-3)


@pytest.fixture(scope="module")
def model(learner, task):
    return fit(learner, [task], [KEY])[0].end.model


@pytest.fixture(scope="module")
def start(learner, task):
    return eqx.filter_jit(learner.init)(
        learner.select(task), num_latents=20, key=KEY, base=truth(task)
    )


def test_the_targets_are_certified_codes_on_unit_atoms(task, start):
    solution = sparse_code(task.train.signals, task.dictionary, 0.1)
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


@pytest.mark.parametrize("peer", [SpamsTrainDL, SklearnMiniBatch])
def test_over_a_learner_on_the_host_both_are_stored(setting, task, tmp_path, peer):
    base = peer(batch_size=64, num_steps=5)
    learner = Amortised((ReLU(), LISTA(2)), base=base, num_steps=2)
    models = Models(tmp_path)
    assert models.missing(learner, setting) == [base, learner]
    found = models.fit(learner, [setting], [task])[0].end.model
    assert models.missing(learner, setting) == []
    own = models.fit(base, [setting], [task])[0].end.model
    np.testing.assert_allclose(found.dictionary, unit_atoms(own.dictionary)[0], atol=1e-5)
    again = Models(tmp_path).fit(learner, [setting], [task])[0].end.model
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(leaf, other)
    # Two encoders of a longer fit share the base, which is not fitted again.
    longer = Amortised((ReLU(),), base=base, num_steps=3)
    assert models.missing(longer, setting) == [longer]
    optima = sparse_code(task.train.signals - found.bias, found.dictionary, 0.1).codes
    before = tuple(one.parameters(found.dictionary, KEY) for one in learner.encoders)
    start = dataclasses.replace(found, encoder=before)
    for member in learner.members:
        first, last = (encode(member, model, task.train.signals) for model in (start, found))
        assert np.mean((last - optima) ** 2) < np.mean((first - optima) ** 2)


def lista_by_hand(parameters, batch, dictionary, lam):
    """The loss of a batch and its gradient, by running the layers forwards and then backwards."""
    weight, threshold, recurrence = parameters
    before, codes = [], [np.zeros((len(batch), dictionary.shape[1]))]
    for t in range(len(weight)):
        carried = codes[-1] @ recurrence[t - 1] if t else 0
        before.append(batch @ weight[t] + carried - threshold[t])
        codes.append(np.maximum(before[-1], 0))
    error = codes[-1] @ dictionary.T - batch
    loss = np.mean(error**2) + lam * np.mean(codes[-1])
    bar = 2 * error @ dictionary / error.size + lam * (codes[-1] > 0) / codes[-1].size
    gradients = [np.zeros_like(part) for part in parameters]
    for t in reversed(range(len(weight))):
        bar = bar * (before[t] > 0)
        gradients[0][t], gradients[1][t] = batch.T @ bar, -bar.sum(axis=0)
        if t:
            gradients[2][t - 1], bar = codes[t].T @ bar, bar @ recurrence[t - 1].T
    return loss, gradients


def test_epochs_of_lista_against_training_by_hand(task):
    with jax.enable_x64(True):
        task = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), task)
        learner = Lista(LISTA(3, factored=False, threshold=0.01), base=Oracle(), num_steps=2)
        data, base = learner.select(task), Model(task.dictionary, np.linspace(-0.2, 0.2, 12))
        state = eqx.filter_jit(learner.init)(data, num_latents=20, key=KEY, base=base)
        advance = eqx.filter_jit(learner.step)
        dictionary, signals = (
            np.asarray(state.model.dictionary),
            np.asarray(data.signals - base.bias),
        )
        parameters = [np.array(leaf) for leaf in jax.tree.leaves(state.model.encoder)]
        lipschitz = np.linalg.norm(dictionary, 2) ** 2
        np.testing.assert_allclose(
            parameters[0], np.broadcast_to(dictionary / lipschitz, (3, 12, 20)), rtol=1e-6
        )
        np.testing.assert_array_equal(parameters[1], np.full((3, 20), 0.01))
        np.testing.assert_allclose(
            parameters[2][1], np.eye(20) - dictionary.T @ dictionary / lipschitz, atol=1e-6
        )
        first, second = ([np.zeros_like(part) for part in parameters] for _ in range(2))
        key, count = state.key, 0
        for _ in range(2):
            shuffle_key, key = jax.random.split(key)
            order = np.asarray(jax.random.permutation(shuffle_key, 100))
            state = advance(data, state)
            for start in (0, 64):
                count += 1
                batch = signals[order[start : start + 64]]
                for i, slope in enumerate(lista_by_hand(parameters, batch, dictionary, 0.1)[1]):
                    first[i] = 0.9 * first[i] + 0.1 * slope
                    second[i] = 0.999 * second[i] + 0.001 * slope**2
                    step = (
                        first[i]
                        / (1 - 0.9**count)
                        / (np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8)
                    )
                    parameters[i] = parameters[i] - 1e-3 * step
        found = jax.tree.leaves(learner.model(state).encoder)
    for ours, theirs in zip(found, parameters, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
