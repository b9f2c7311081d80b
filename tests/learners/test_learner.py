"""Fitting: a learner sees what it selects and nothing else, in dimensions that count, and says what
it needs.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, Split, Task, draw, fit
from sae_gap.core import Model
from sae_gap.encoders import LISTA, ReLU, TopK
from sae_gap.learners import (
    Amortised,
    DLFista,
    Families,
    Learner,
    LinearProbe,
    Lista,
    OnlineDictionary,
    Oracle,
    Pruned,
    SoftplusAdam,
    SparseAutoencoder,
    Surgery,
)

KEY = jax.random.key(5)
FISTA = DLFista(num_steps=3, num_iterations=20)
ADAM = SoftplusAdam(num_steps=3, block=4)
SAE = SparseAutoencoder(TopK(3), num_steps=3)


def model_of(learner, task, **options):
    return fit(learner, [task], [KEY], **options)[0].end.model


def leaves(learner, task):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model_of(learner, task))]


def blind(task, *seen):
    """The task with all signals that are not seen replaced by noise, and nothing that may be
    missing.
    """
    rng = np.random.default_rng(5)

    def split(name):
        found = getattr(task, name).signals
        noise = jnp.asarray(rng.normal(size=found.shape), jnp.float32)
        return Split(found if name in seen else noise)

    return Task(split("train"), split("id"), split("ood"), width=task.width, seed=99)


# By the published protocol they learn from what is scored.
@pytest.mark.parametrize(("learner", "seen"), [(FISTA, ["id"]), (ADAM, ["id", "ood"])])
def test_a_published_learner_sees_the_scored_signals_and_nothing_else(learner, seen, task):
    learner = dataclasses.replace(learner, split="id")
    model, same, other = (
        leaves(learner, of) for of in (task, blind(task, *seen), blind(task, "train", *seen[1:]))
    )
    assert all(map(np.array_equal, model, same)) and not all(map(np.array_equal, model, other))


DICTIONARY = "the true dictionary"


@pytest.mark.parametrize(
    ("learner", "lacks", "coordinates"),
    [
        (LinearProbe(), "the true codes of the training split", {}),
        (Oracle(), DICTIONARY, {}),
        (Surgery("oracle_norms", base=SAE), DICTIONARY, {"columns": "oracle_norms"}),
        (Surgery("renormed", base=SAE), None, {"dictionary": "topk", "columns": "renormed"}),
        (Surgery("renormed", base=Oracle()), DICTIONARY, {"dictionary": "oracle"}),
        (Amortised((ReLU(),), base=SAE), None, {"dictionary": "topk"}),
        (Families(base=SAE), None, {"dictionary": "topk_families"}),
        (Pruned(base=Oracle()), DICTIONARY, {"dictionary": "oracle_pruned"}),
    ],
)
def test_a_learner_says_what_it_needs_and_what_its_dictionary_is(learner, lacks, coordinates, task):
    assert learner.needs(blind(task)) == lacks and learner.needs(task) is None
    assert learner.coordinates.items() >= coordinates.items()


@pytest.mark.parametrize("kind", [Families, Pruned, Surgery, Lista])
def test_what_goes_on_from_a_model_needs_a_base(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a base"):
        kind()


class Counter(Learner):
    """Adds a rate at every step, and stops where its first signal says; counts how often it is
    traced.
    """

    num_steps: int = 7
    rate: float = 1.0
    traced: ClassVar[list[None]] = []

    def init(self, data, *, num_latents, key):
        self.traced.append(None)
        return jnp.zeros(()), jnp.floor(10 * jnp.abs(data.signals[0, 0]))

    def step(self, data, state):
        return state[0] + self.rate, state[1]

    def done(self, state):
        return state[0] >= state[1]

    def model(self, state):
        return Model(None, state[0][None])


def test_a_float_does_not_change_the_program(task):
    Counter.traced.clear()
    rates = [0.5, 1.0, 1.5]
    found = [float(model_of(Counter(8, rate), task).bias[0]) for rate in rates]
    stop = np.floor(10 * abs(float(task.train.signals[0, 0])))
    assert found == [min(np.ceil(stop / rate), 8) * rate for rate in rates]
    assert len(Counter.traced) == 1


@pytest.mark.parametrize("learner", [SAE, FISTA, ADAM], ids=lambda learner: learner.name)
def test_an_outlier_row_is_learned_from_as_one_of_the_median_norm(learner, task):
    given = np.array(task.train.signals)
    given[9] *= 300
    usual = given.copy()
    usual[9] *= np.median(np.linalg.norm(given, axis=1)) / np.linalg.norm(usual[9])
    found = [
        leaves(learner, dataclasses.replace(task, train=Split(jnp.asarray(rows))))
        for rows in (given, usual)
    ]
    for array, other in zip(*found, strict=True):
        np.testing.assert_allclose(array, other, atol=1e-4)


BARE = Setting(num_latents=20, sparsity=3, num_samples=200)
PADDED = dataclasses.replace(BARE, padded_dim=20)
DIMS = BARE.input_dim


@pytest.fixture
def same_draws(monkeypatch):
    """What is random of a padded dictionary is what is random of the bare one, with anything in the
    padding.
    """
    for name in ("normal", "uniform"):
        drawn = getattr(jax.random, name)

        def padded(key, shape=(), *args, drawn=drawn, **options):
            if tuple(shape) != (PADDED.padded_dim, BARE.num_latents):
                return drawn(key, shape, *args, **options)
            bare = drawn(key, (DIMS, BARE.num_latents), *args, **options)
            return jnp.pad(bare, ((0, PADDED.padded_dim - DIMS), (0, 0)), constant_values=0.3)

        monkeypatch.setattr(jax.random, name, padded)


@pytest.mark.parametrize(
    "learner",
    [
        # Heavy penalties, so that a share of one would show at once.
        SparseAutoencoder(ReLU(), num_steps=20, penalty=0.1),
        DLFista(num_steps=10),
        OnlineDictionary(visits=5, num_steps=5),
        SoftplusAdam(num_steps=2, block=100, improvement=0.01, patience=20, least_updates=20),
        Lista(LISTA(2, factored=False, threshold=0.01), base=FISTA, lam=1.0, num_steps=20),
    ],
    ids=lambda learner: learner.name,
)
def test_a_learner_learns_the_same_with_dimensions_of_zeros(learner, same_draws):
    ends, codes = [], []
    for setting in (BARE, PADDED):
        task = draw(setting)
        bases = learner.base and [model_of(learner.base, task)]
        ends.append(fit(learner, [task], [KEY], bases=bases)[0].end)
        if (encode := getattr(learner, "encoder", None)) is not None:
            codes.append(encode(ends[-1].model, task.id.signals))
    assert ends[0].step == ends[1].step
    for name in ("dictionary", "bias"):
        bare, padded = (np.asarray(getattr(end.model, name)) for end in ends)
        np.testing.assert_allclose(padded[:DIMS], bare, atol=2e-4)
        assert not padded[DIMS:].any()
    if codes:
        assert np.mean(np.abs(codes[0])) > 1e-3
        np.testing.assert_allclose(codes[1], codes[0], atol=2e-3)
