"""Fitting: a learner sees what it selects and nothing else, in dimensions that count, and says what
it needs; and a model that is given is told by its numbers and its codes.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import mark, raises

from sae_gap import Split, Task
from sae_gap.core import Model
from sae_gap.encoders import LISTA, Affine, ReLU, TopK
from sae_gap.learners import (
    DLFista,
    Families,
    Given,
    Held,
    LinearProbe,
    Lista,
    OnlineDictionary,
    Oracle,
    Pruned,
    SoftplusAdam,
    SparseAutoencoder,
    Surgery,
)
from tests.learners.steps import begin, take_step

FISTA = DLFista()
ADAM = SoftplusAdam()
SAE = SparseAutoencoder(TopK(3))


def leaves(learner, task):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(learner.select(task))]


def blind(task, *seen):
    """The task with all signals that are not seen replaced by noise, and nothing that may be
    missing.
    """
    rng = default_rng(5)

    def split(name):
        found = getattr(task, name).signals
        noise = jnp.float32(rng.normal(size=found.shape))
        return Split(found if name in seen else noise)

    return Task(split("train"), split("id"), split("ood"), width=task.width, seed=99)


# By the published protocol they learn from what is scored.
@mark.parametrize(("learner", "seen"), [(FISTA, ["id"]), (ADAM, ["id", "ood"])])
def test_a_published_learner_sees_the_scored_signals_and_nothing_else(
    learner, seen, task
):
    learner = replace(learner, split="id")
    data, same, other = (
        leaves(learner, of)
        for of in (task, blind(task, *seen), blind(task, "train", *seen[1:]))
    )
    assert all(map(np.array_equal, data, same)) and not all(
        map(np.array_equal, data, other)
    )


DICTIONARY = "the true dictionary"


@mark.parametrize(
    ("learner", "lacks", "coordinates"),
    [
        (LinearProbe(), "the true codes of the training split", {}),
        (Surgery("oracle_norms", base=SAE), DICTIONARY, {"columns": "oracle_norms"}),
        (Surgery("renormed", base=Oracle()), DICTIONARY, {"dictionary": "oracle"}),
        (Families(base=SAE), None, {"dictionary": "topk_families"}),
        (Pruned(base=Oracle()), DICTIONARY, {"dictionary": "oracle_pruned"}),
    ],
)
def test_a_learner_says_what_it_needs_and_what_its_dictionary_is(
    learner, lacks, coordinates, task
):
    assert learner.needs(blind(task)) == lacks and learner.needs(task) is None
    assert learner.coordinates.items() >= coordinates.items()


@mark.parametrize("kind", [Families, Pruned, Surgery, Lista])
def test_what_goes_on_from_a_model_needs_a_base(kind):
    with raises(ValueError, match=f"{kind.__name__} needs a base"):
        kind()


@mark.parametrize("learner", [SAE, FISTA, ADAM], ids=lambda learner: learner.name)
def test_an_outlier_row_is_learned_from_as_one_of_the_median_norm(learner, task):
    given = np.array(task.train.signals)
    given[9] *= 300
    usual = given.copy()
    usual[9] *= np.median(norm(given, axis=1)) / norm(usual[9])
    found = [
        leaves(learner, replace(task, train=Split(jnp.asarray(rows))))
        for rows in (given, usual)
    ]
    for array, other in zip(*found, strict=True):
        assert_allclose(array, other, atol=1e-4)


@mark.parametrize(
    "learner",
    [
        # Heavy penalties, so that a share of one would show at once.
        SparseAutoencoder(ReLU(), penalty=0.1, base=Oracle()),
        Lista(LISTA(2, factored=False, threshold=0.01), base=Oracle(), lam=1.0),
        OnlineDictionary(visits=5, num_steps=20),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_a_learner_learns_the_same_with_dimensions_of_zeros(learner, task):
    found = []
    for more in (0, 8):
        atoms = jnp.pad(task.dictionary, ((0, more), (0, 0)))
        base = {"base": Model(atoms, jnp.zeros(len(atoms)))} if learner.base else {}
        data = Split(jnp.pad(task.train.signals, ((0, 0), (0, more))))
        state = begin(learner, data, **base)
        for _ in range(20):
            state = take_step(learner, data, state)
        model = learner.model(state)
        codes = learner.encode(model, data.signals) if learner.encode else 0
        found.append((model.decoder[:12], model.bias[:12], codes))
    assert not model.decoder[12:].any()
    for padded, bare in zip(*found, strict=True):
        assert_allclose(padded, bare, atol=1e-4)


ATOMS = default_rng(0).normal(size=(12, 20)).astype(np.float32)


def model(scale=1.0, encode=None):
    weight = Affine(jnp.asarray(ATOMS + 1), jnp.ones(20))
    return Model(jnp.asarray(scale * ATOMS), jnp.zeros(12), weight, encode or TopK(4))


def function(share, threshold=0.0):
    def encode(model, signals):
        return share * np.maximum(signals @ np.asarray(model.decoder) - threshold, 0)

    return encode


@mark.parametrize("make", [lambda: model(2.0), lambda: model(encode=TopK(3))])
def test_another_model_is_another_learner(make):
    one, same, other = (
        Given(Held(each), "mine") for each in (model(), model(), make())
    )
    assert one == same and hash(one) == hash(same) and one != other
    # The name is a label of rows that may be there.
    assert Given(one.held, "other").described() == same.described() != other.described()


@mark.parametrize("threshold", [0, 200])
def test_functions_of_one_name_are_told_by_their_codes(threshold):
    one, same, other = (
        Held(model(encode=function(share, threshold))).digest for share in (1, 1, 2)
    )
    assert one == same != other
