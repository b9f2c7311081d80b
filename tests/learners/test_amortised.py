"""Encoders for a given dictionary: what is frozen, a step of Adam by hand, and that depth brings them to the optimum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import amortisation_gap, fit
from sae_gap.encoders.base import encode
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.oracle import Oracle
from sae_gap.solvers import sparse_code

ENCODERS = (ReLU(), TopK(3), JumpReLU(), LISTA(1), LISTA(4))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def learner():
    return Amortised(Oracle(), ENCODERS, num_steps=100, learning_rate=5e-3)


@pytest.fixture(scope="module")
def model(learner, task):
    return fit(learner, [task], [KEY]).models[0]


@pytest.fixture(scope="module")
def start(learner, task):
    return eqx.filter_jit(learner.init)(learner.select(task), num_latents=20, key=KEY)


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
    alone = fit(Amortised(Oracle(), ENCODERS[3:4], num_steps=100, learning_rate=5e-3), [task], [KEY]).models[0]
    np.testing.assert_allclose(alone.encoder[0].weight, model.encoder[3].weight, atol=1e-4)
    assert alone.encode.encoder == ENCODERS[3] and model.encode is None
    codes = encode(alone.encode, alone, task.ood.signals)
    np.testing.assert_allclose(
        codes, encode(ENCODERS[3], eqx.tree_at(lambda m: m.encoder, alone, alone.encoder[0]), task.ood.signals)
    )


def test_the_first_step_is_adams(task):
    learner = Amortised(Oracle(), (ReLU(),), num_steps=1, batch_size=100, learning_rate=1e-2)
    data = learner.select(task)
    state = learner.init(data, num_latents=20, key=KEY)
    after = learner.model(learner.step(data, state)).encoder[0]
    signals, weight, codes = (np.asarray(a, np.float64) for a in (data[1], state.model.encoder[0].weight, state.codes))
    hidden = signals @ weight
    gradient = signals.T @ (2 * (hidden > 0) * (np.maximum(hidden, 0) - codes)) / 100
    # Adam's first step is the rate times the sign of the gradient.
    clear = np.abs(gradient) > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_allclose((after.weight - weight)[clear], (-1e-2 * np.sign(gradient))[clear], rtol=1e-2)


def test_a_learned_dictionary_is_the_other_learners(task):
    base = DLFista(num_steps=3, num_iterations=20)
    fitted = fit(Amortised(base, (ReLU(),), num_steps=2), [task], [KEY])
    other = fit(base, [task], [jax.random.split(KEY)[0]]).models[0]
    np.testing.assert_allclose(fitted.models[0].dictionary, other.dictionary, atol=1e-4)
    assert fitted.num_steps == [2]


def test_it_needs_what_the_other_learner_needs(task):
    untold = eqx.tree_at(lambda task: task.dictionary, task, None)
    assert "dictionary" in Amortised(Oracle(), (ReLU(),)).needs(untold)
    assert Amortised(DLFista(), (ReLU(),)).needs(untold) is None
