"""Fitting: a seed's bits are its own, side by side agrees, and a learner sees what it selects and
nothing else.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, Split, Task, draw, fit
from sae_gap.core.types import Model
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised, Lista
from sae_gap.learners.baselines import PCA
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.learner import Learner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

LEARNERS = {
    "sae": SparseAutoencoder(TopK(3), num_steps=3),
    "dl_fista": DLFista(num_steps=3, num_iterations=20),
    "published_dl_fista": DLFista(num_steps=3, num_iterations=20, split="id"),
    "amortised": Amortised(
        (TopK(3), LISTA(2)), base=DLFista(num_steps=3, num_iterations=20), num_steps=3
    ),
    "lista": Lista(
        LISTA(3, factored=False), base=DLFista(num_steps=3, num_iterations=20), num_steps=3
    ),
    "softplus_adam": SoftplusAdam(num_steps=3, block=4),
    "published_softplus_adam": SoftplusAdam(num_steps=3, block=4, split="id"),
    "pca": PCA(),
    "probe": LinearProbe(),
    "oracle": Oracle(),
}
# All that each may depend on, beside its key.
SEES = {
    "sae": {"train.signals"},
    "dl_fista": {"train.signals"},
    "published_dl_fista": {"id.signals"},
    "amortised": {"train.signals"},
    "lista": {"train.signals"},
    "softplus_adam": {"train.signals"},
    "published_softplus_adam": {"id.signals", "ood.signals"},
    "pca": {"train.signals"},
    "probe": {"train.signals", "train.codes"},
    "oracle": {"dictionary"},
}


@pytest.fixture(scope="module")
def tasks(task):
    return [task, draw(Setting(20, 3, 200, seed=1)), draw(Setting(20, 3, 200, seed=2))]


def keys(*seeds):
    return [jax.random.key(seed) for seed in seeds]


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def same_bits(model, other):
    return all(np.array_equal(a, b) for a, b in zip(leaves(model), leaves(other), strict=True))


@pytest.fixture(scope="module", params=LEARNERS)
def fitted(request, tasks):
    return request.param, fit(LEARNERS[request.param], tasks, keys(0, 1, 2))


def test_a_seed_alone_has_the_bits_it_has_in_company(fitted, tasks):
    name, together = fitted
    (alone,) = fit(LEARNERS[name], tasks[1:2], keys(1))
    assert same_bits(alone.end.model, together[1].end.model)
    assert alone.end.step == together[1].end.step
    assert not same_bits(together[0].end.model, together[1].end.model)


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


def test_a_learner_sees_what_it_selects_and_nothing_else(fitted, tasks):
    name, together = fitted
    (found,) = fit(LEARNERS[name], [blind(tasks[0], SEES[name])], keys(0))
    assert same_bits(found.end.model, together[0].end.model)


def test_a_learner_does_depend_on_what_it_sees(fitted, tasks):
    name, together = fitted
    rolled = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=1), tasks[0])
    assert not same_bits(fit(LEARNERS[name], [rolled], keys(0))[0].end.model, together[0].end.model)


def test_what_training_needs_is_said(task):
    bare = blind(task, {"train.signals"})
    lacks = {"probe": "the true codes of the training split", "oracle": "the true dictionary"}
    assert all(learner.needs(bare) == lacks.get(name) for name, learner in LEARNERS.items())
    assert not any(learner.needs(task) for learner in LEARNERS.values())


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


def test_a_float_does_not_change_the_program(tasks):
    Counter.traced.clear()
    rates = [0.5, 1.0, 1.5]
    seen = [blind(tasks[0], {"train.signals"})]
    models = [fit(Counter(8, rate), seen, keys(0))[0].end.model for rate in rates]
    stop = np.floor(10 * abs(float(tasks[0].train.signals[0, 0])))
    expected = [min(np.ceil(stop / rate), 8) * rate for rate in rates]
    assert [float(model.bias[0]) for model in models] == expected
    assert len(Counter.traced) == 1


@pytest.mark.parametrize("name", ["sae", "dl_fista", "softplus_adam"])
def test_a_outliers_row_is_learned_from_as_one_of_the_median_norm(name, task):
    signals = np.array(task.train.signals)
    row = 9
    usual, given = signals.copy(), signals.copy()
    given[row] *= 300
    median = np.median(np.linalg.norm(given, axis=1))
    usual[row] *= median / np.linalg.norm(usual[row])
    sources = [dataclasses.replace(task, train=Split(jnp.asarray(rows))) for rows in (given, usual)]
    found, expected = (fit(LEARNERS[name], [source], keys(0))[0].end.model for source in sources)
    for array, other in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(array, other, atol=1e-4)
