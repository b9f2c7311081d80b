"""The one loop: models along it are those of shorter fits, and what is kept of it stays."""

import concurrent.futures
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from equinox import field, filter_jit, tree_at
from jax.random import fold_in
from jax.tree_util import tree_leaves
from numpy.testing import assert_allclose
from pytest import fixture, mark, raises

from sae_gap import Setting, draw, fit
from sae_gap.core import Model
from sae_gap.encoders import TopK
from sae_gap.learners import Learner, OnlineDictionary, SparseAutoencoder
from sae_gap.storage import Checkpoint
from sae_gap.study import fitting

SAE = SparseAutoencoder(TopK(3), num_steps=5)


class Walk(Learner):
    """A dictionary that takes random steps, and stops after `until` of them."""

    num_steps: int = field(static=True, default=6, kw_only=True)
    rate: float = 0.1
    until: float = 100.0

    snapshots = (1, 4, 50)

    def init(self, data, *, num_latents, key, base=None):
        atoms = (
            jax.random.normal(key, (data.signals.shape[1], num_latents))
            if base is None
            else base.decoder
        )
        return {
            "dictionary": atoms,
            "count": jnp.zeros(()),
            "key": key,
            "first": data.signals[0],
        }

    def step(self, data, state):
        key = fold_in(state["key"], state["count"].astype(int))
        noise = jax.random.normal(key, state["dictionary"].shape)
        dictionary = state["dictionary"] + self.rate * noise
        return state | {"dictionary": dictionary, "count": state["count"] + 1}

    def done(self, state):
        # The second seed stops one step before the first.
        return state["count"] >= self.until - (state["first"][0] > 0.5)

    def model(self, state):
        return Model(state["dictionary"], state["first"])


@fixture(scope="module")
def tasks(task):
    second = draw(Setting(20, 3, 200, seed=1))
    signals = [
        task.train.signals.at[0, 0].set(0.0),
        second.train.signals.at[0, 0].set(1.0),
    ]
    return [
        tree_at(lambda t: t.train.signals, one, s)
        for one, s in zip((task, second), signals, strict=True)
    ]


KEYS = [jax.random.key(0), jax.random.key(1)]


def same_bits(model, other):
    pairs = zip(tree_leaves(model), tree_leaves(other), strict=True)
    return all(map(np.array_equal, *zip(*pairs, strict=True)))


def same_ends(fits, others):
    pairs = zip(fits, others, strict=True)
    return all(same_bits(one.end.model, other.end.model) for one, other in pairs)


def test_models_along_a_fit_are_those_of_shorter_fits(tasks):
    along = fit(SAE, tasks, KEYS, at=(3, 0, 1))
    start = filter_jit(SAE.init)
    for one, task, key in zip(along, tasks, KEYS, strict=True):
        assert [*one.along] == [0, 1, 3]
        # No learner takes no step at all; what it would start from is that model.
        first = SAE.model(
            start(SAE.select(task), num_latents=task.width, key=key)
        ).dictionary
        assert_allclose(one.at(0).model.dictionary, first, rtol=1e-5, atol=1e-6)
        seconds = [one.at(step).seconds for step in (0, 1, 3, 5)]
        assert seconds[0] > 0 and seconds == sorted(seconds)
    # An integer is the key of that seed.
    for step, seeds in ((1, KEYS), (3, range(2)), (5, np.arange(2))):
        shorter = fit(replace(SAE, num_steps=step), tasks, seeds)
        for one, other in zip(along, shorter, strict=True):
            assert one.at(step).step == other.end.step == step and not other.along
            assert same_bits(one.at(step).model, other.end.model)


def test_what_is_kept_is_not_used_up(tasks):
    """The loop reuses its buffers, and this state lies in the model, and the base's in the state,
    as they are.
    """
    bases = fit(Walk(), tasks, KEYS)
    learner = Walk(0.2, base=Walk())
    seen = {}

    def keep(place, one):
        seen[place, one.step] = float(jnp.sum(one.model.dictionary)), one.model

    given = [one.end.model for one in bases]
    found = fit(learner, tasks, KEYS, at=range(6), bases=given, keep=keep)
    assert {*seen} == {(place, step) for place in (0, 1) for step in range(6)}
    assert len({total for total, _ in seen.values()}) == 12
    assert all(
        float(jnp.sum(model.dictionary)) == total for total, model in seen.values()
    )
    assert not any(leaf.is_deleted() for leaf in tree_leaves((given, tasks, KEYS)))
    # The first model is the base's, which is why it is the one in danger.
    assert all(
        same_bits(seen[place, 0][1].dictionary, given[place].dictionary)
        for place in (0, 1)
    )
    # Where no base is given, it is fitted.
    again = fit(learner, tasks, KEYS)
    assert same_ends(again, found)
    assert all(one.base_seconds > 0 for one in again) and not any(
        one.base_seconds for one in found
    )


class KilledError(Exception):
    pass


class Mortal(Checkpoint):
    """Dies after its third save."""

    saves = 0

    def store(self, state, seconds):
        super().store(state, seconds + 1_000)
        self.saves += 1
        if self.saves == 3:
            raise KilledError


LEARNERS = {
    "sae": SAE,
    "online": OnlineDictionary(num_steps=6, visits=4),
    "walk": Walk(until=5.0),
}


@mark.parametrize(
    ("name", "wide"), [*((name, False) for name in LEARNERS), ("walk", True)]
)
def test_a_killed_fit_ends_as_if_it_were_not(tmp_path, tasks, name, wide):
    """With the seconds before the kill, and in its own precision, which is set for one thread,
    where seeds have threads of their own.
    """
    with jax.enable_x64(wide):
        given = (
            [draw(Setting(20, 3, 200, seed=seed)) for seed in (0, 1)] if wide else tasks
        )

        def going_on(kind):
            saves = [kind(tmp_path / str(seed), every=0) for seed in range(2)]
            return fit(LEARNERS[name], given, KEYS, at=(2, 4), checkpoints=saves)

        whole = fit(LEARNERS[name], given, KEYS, at=(2, 4))
        with raises(KilledError):
            going_on(Mortal)
        resumed = going_on(Checkpoint)
        assert same_ends(resumed, whole)
        assert resumed[0].end.model.dictionary.dtype == jnp.zeros(()).dtype
    for one in resumed:
        assert 1_000 < min(one.at(4).seconds, one.end.seconds) < 1_010
        # The first of a kill's models was kept before it.
        assert [*one.along] == [4][: one.end.step > 4]


@mark.parametrize("cores", [1, 2])
def test_threads_that_fit_at_once_share_the_cores(tasks, monkeypatch, cores):
    running = []
    most = [0]
    run = fitting.Program.run
    together = threading.Barrier(cores)

    def counted(self, *args, **options):
        running.append(self)
        most[0] = max(most[0], len(running))
        # As many as there are cores do meet here.
        together.wait(timeout=60)
        found = run(self, *args, **options)
        running.remove(self)
        return found

    monkeypatch.setattr(fitting.Program, "run", counted)
    monkeypatch.setattr(fitting, "at_once", lambda mesh: 4)
    monkeypatch.setattr(fitting, "LOOPS", threading.BoundedSemaphore(cores))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len([*pool.map(lambda _: fit(Walk(), tasks, KEYS), range(4))]) == 4
    assert most[0] == cores
