"""Fitting: a seed's bits are its own, side by side agrees, and a learner sees what it selects and
nothing else.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Split, Task, fit
from sae_gap.core.types import Model
from sae_gap.encoders.topk import TopK
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.learner import Learner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

# By the published protocol they learn from what is scored.
PUBLISHED = {
    DLFista(num_steps=3, num_iterations=20, split="id"): {"id.signals"},
    SoftplusAdam(num_steps=3, block=4, split="id"): {"id.signals", "ood.signals"},
}
KEY = jax.random.key(0)


def leaves(learner, task):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(fit(learner, [task], [KEY])[0].end.model)]


def blind(task, seen):
    """The task with all that is not seen replaced by noise, or taken away where it may be
    missing.
    """
    rng = np.random.default_rng(5)

    def split(name):
        found = getattr(task, name)
        noise = jnp.asarray(rng.normal(size=found.signals.shape), jnp.float32)
        signals = found.signals if f"{name}.signals" in seen else noise
        return Split(signals, found.codes if f"{name}.codes" in seen else None)

    dictionary = task.dictionary if "dictionary" in seen else None
    return Task(split("train"), split("id"), split("ood"), dictionary, width=task.width, seed=99)


@pytest.mark.parametrize("learner", PUBLISHED, ids=lambda learner: learner.name)
def test_a_published_learner_sees_the_scored_signals_and_nothing_else(learner, task):
    model = leaves(learner, task)
    same = leaves(learner, blind(task, PUBLISHED[learner]))
    rolled = leaves(learner, jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=1), task))
    assert all(map(np.array_equal, model, same)) and not all(map(np.array_equal, model, rolled))


def test_what_training_needs_is_said(task):
    bare = blind(task, {"train.signals"})
    lacks = {LinearProbe(): "the true codes of the training split", Oracle(): "the true dictionary"}
    assert all(
        learner.needs(bare) == lack and not learner.needs(task) for learner, lack in lacks.items()
    )


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
    models = [fit(Counter(8, rate), [task], [KEY])[0].end.model for rate in rates]
    stop = np.floor(10 * abs(float(task.train.signals[0, 0])))
    expected = [min(np.ceil(stop / rate), 8) * rate for rate in rates]
    assert [float(model.bias[0]) for model in models] == expected
    assert len(Counter.traced) == 1


@pytest.mark.parametrize(
    "learner",
    [
        SparseAutoencoder(TopK(3), num_steps=3),
        DLFista(num_steps=3, num_iterations=20),
        SoftplusAdam(num_steps=3, block=4),
    ],
    ids=lambda learner: learner.name,
)
def test_an_outlier_row_is_learned_from_as_one_of_the_median_norm(learner, task):
    given = np.array(task.train.signals)
    given[9] *= 300
    usual = given.copy()
    usual[9] *= np.median(np.linalg.norm(given, axis=1)) / np.linalg.norm(usual[9])
    sources = [dataclasses.replace(task, train=Split(jnp.asarray(rows))) for rows in (given, usual)]
    for array, other in zip(*(leaves(learner, source) for source in sources), strict=True):
        np.testing.assert_allclose(array, other, atol=1e-4)
