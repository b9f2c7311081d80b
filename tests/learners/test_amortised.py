"""Encoders for a given dictionary: what is frozen, a step of Adam by hand, and that depth brings
them to the optimum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import amortisation_gap, fit
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import encode, unit_atoms
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.oracle import Oracle
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
