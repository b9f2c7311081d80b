"""Encoders for a given dictionary: what is frozen, a step of Adam by hand, and that depth brings them to the optimum."""

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
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.dl_fista import DLFista
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
    return eqx.filter_jit(learner.init)(learner.select(task), num_latents=20, key=KEY, base=truth(task))


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
        return float(jnp.mean(jnp.sum((encode(member, model, task.train.signals) - start.codes) ** 2, axis=1)))

    assert distance(model) < 0.75 * distance(start.model)
    assert amortisation_gap(model, task.id.signals, 0.1, encode=member).gap.min() >= 0


def test_deeper_is_closer(learner, model, task):
    relu, _, _, shallow, deep = (
        amortisation_gap(model, task.id.signals, 0.1, encode=member).gap.mean() for member in learner.members
    )
    assert deep < 0.7 * shallow and deep < 0.7 * relu


def test_an_encoder_is_trained_alike_alone_and_in_company(model, task):
    alone = fit(Amortised(ENCODERS[3:4], base=Oracle(), num_steps=100, learning_rate=5e-3), [task], [KEY])[0].end.model
    np.testing.assert_allclose(alone.encoder[0].weight, model.encoder[3].weight, atol=1e-4)
    assert alone.encode.encoder == ENCODERS[3] and model.encode is None
    codes = encode(alone.encode, alone, task.ood.signals)
    np.testing.assert_allclose(
        codes, encode(ENCODERS[3], eqx.tree_at(lambda m: m.encoder, alone, alone.encoder[0]), task.ood.signals)
    )


def test_the_first_step_is_adams(task):
    learner = Amortised((ReLU(),), base=Oracle(), num_steps=1, batch_size=100, learning_rate=1e-2)
    data = learner.select(task)
    state = learner.init(data, num_latents=20, key=KEY, base=truth(task))
    after = learner.model(learner.step(data, state)).encoder[0]
    signals, weight, codes = (np.asarray(a, np.float64) for a in (data.signals, state.model.encoder[0].weight, state.codes))
    hidden = signals @ weight
    gradient = signals.T @ (2 * (hidden > 0) * (np.maximum(hidden, 0) - codes)) / 100
    # Adam's first step is the rate times the sign of the gradient.
    clear = np.abs(gradient) > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_allclose((after.weight - weight)[clear], (-1e-2 * np.sign(gradient))[clear], rtol=1e-2)


def test_the_dictionary_is_that_of_the_base_with_unit_atoms(task):
    base = SparseAutoencoder(TopK(3), num_steps=2)
    (fitted,) = fit(Amortised((ReLU(),), base=base, num_steps=2), [task], [KEY])
    other = fit(base, [task], [KEY])[0].end.model
    model = fitted.end.model
    np.testing.assert_allclose(model.dictionary, unit_atoms(other.dictionary)[0], atol=1e-5)
    np.testing.assert_allclose(model.bias, other.bias, atol=1e-6)
    assert np.abs(np.linalg.norm(other.dictionary, axis=0) - 1).max() > 1e-4
    assert fitted.end.step == 2 and Amortised((ReLU(),), base=base).coordinates == {"dictionary": "topk"}


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
    assert models.missing(Amortised((ReLU(),), base=base, num_steps=3), setting) == [
        Amortised((ReLU(),), base=base, num_steps=3)
    ]
    optima = sparse_code(task.train.signals - found.bias, found.dictionary, 0.1).codes
    before = [encoder.parameters(found.dictionary, jax.random.key(0)) for encoder in learner.encoders]
    start = dataclasses.replace(found, encoder=tuple(before))
    for member in learner.members:
        distance = [float(jnp.mean((encode(member, model, task.train.signals) - optima) ** 2)) for model in (start, found)]
        assert distance[1] < distance[0]


def test_it_needs_what_its_base_needs(task):
    untold = eqx.tree_at(lambda task: task.dictionary, task, None)
    assert "dictionary" in Amortised((ReLU(),), base=Oracle()).needs(untold)
    assert Amortised((ReLU(),), base=DLFista()).needs(untold) is None
