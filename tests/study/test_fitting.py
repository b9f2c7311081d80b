"""The one loop: models along it are those of shorter fits, and what is kept of it stays."""

import concurrent.futures
import dataclasses
import functools
import io
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, draw, fit
from sae_gap.core.types import Model
from sae_gap.encoders.topk import TopK
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.runtime import devices
from sae_gap.storage.trees import Checkpoint
from sae_gap.study import fitting
from sae_gap.study import program as loop

SAE = SparseAutoencoder(TopK(3), num_steps=5)


class Walk(Learner):
    """A dictionary that takes random steps, and stops after `until` of them."""

    num_steps: int = eqx.field(static=True, default=6, kw_only=True)
    rate: float = 0.1
    until: float = 100.0

    snapshots = (1, 4, 50)

    def init(self, data, *, num_latents, key, base=None):
        atoms = (
            jax.random.normal(key, (data.signals.shape[1], num_latents))
            if base is None
            else base.decoder
        )
        return {"dictionary": atoms, "count": jnp.zeros(()), "key": key, "first": data.signals[0]}

    def step(self, data, state):
        noise = jax.random.normal(
            jax.random.fold_in(state["key"], state["count"].astype(int)), state["dictionary"].shape
        )
        dictionary = state["dictionary"] + self.rate * noise
        return state | {"dictionary": dictionary, "count": state["count"] + 1}

    def done(self, state):
        # The second seed stops one step before the first.
        return state["count"] >= self.until - (state["first"][0] > 0.5)

    def model(self, state):
        return Model(state["dictionary"], state["first"])


@pytest.fixture(scope="module")
def tasks(task):
    second = draw(Setting(20, 3, 200, seed=1))
    signals = [task.train.signals.at[0, 0].set(0.0), second.train.signals.at[0, 0].set(1.0)]
    return [
        eqx.tree_at(lambda t: t.train.signals, one, s)
        for one, s in zip((task, second), signals, strict=True)
    ]


KEYS = [jax.random.key(0), jax.random.key(1)]


def arrays(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def same_bits(model, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(model), arrays(other), strict=True))


@pytest.fixture(scope="module")
def along(tasks):
    return fit(SAE, tasks, KEYS, at=(3, 0, 1))


def ends(fits):
    return [one.end.model for one in fits]


def steps(fits):
    return [one.end.step for one in fits]


def test_models_along_a_fit_are_those_of_shorter_fits(along, tasks):
    assert [list(one.along) for one in along] == [[0, 1, 3]] * 2
    start = eqx.filter_jit(SAE.init)
    for one, task, key in zip(along, tasks, KEYS, strict=True):
        # No learner takes no step at all; what it would start from is that model.
        first = SAE.model(start(SAE.select(task), num_latents=task.width, key=key))
        assert one.at(0).step == 0
        np.testing.assert_allclose(
            one.at(0).model.dictionary, first.dictionary, rtol=1e-5, atol=1e-6
        )
    for step in (1, 3):
        shorter = fit(dataclasses.replace(SAE, num_steps=step), tasks, KEYS)
        for one, other in zip(along, shorter, strict=True):
            assert one.at(step).step == other.end.step == step
            assert one.at(step).model.encode == TopK(3)
            assert same_bits(one.at(step).model, other.end.model)


def test_stopping_for_a_model_does_not_change_the_end(along, tasks):
    whole = fit(SAE, tasks, KEYS)
    assert steps(along) == steps(whole) == [5, 5] and not any(one.along for one in whole)
    assert all(map(same_bits, ends(along), ends(whole)))
    assert not same_bits(along[0].end.model, along[0].at(3).model)


def test_seconds_grow_along_a_fit(tasks):
    began = time.perf_counter()
    fits = fit(SAE, tasks, KEYS, at=(0, 1, 3))
    wall_seconds = time.perf_counter() - began
    for one in fits:
        seconds = [one.at(step).seconds for step in (0, 1, 3, 5)]
        assert seconds[0] > 0 and seconds == sorted(seconds)
        assert seconds[-1] + one.compile_seconds <= wall_seconds
        assert one.device == devices.describe()


@pytest.mark.parametrize(("until", "stops"), [(4.0, [4, 3]), (0.0, [0, 0]), (1.0, [1, 0])])
def test_each_seed_stops_by_itself_and_no_model_is_kept_beyond(tasks, until, stops):
    found = fit(Walk(until=until), tasks, KEYS, at=(0, 2, 5, 6))
    assert steps(found) == stops
    for one in found:
        assert list(one.along) == [step for step in (0, 2) if step < one.end.step]
        assert one.at(5) is one.end


def test_what_is_kept_is_not_used_up(tasks):
    """The loop reuses its buffers, and this state lies in the model, and the base's in the state,
    as they are.
    """
    bases = ends(fit(Walk(), tasks, KEYS))
    seen = []

    def keep(place, one):
        seen.append((place, one.step, float(jnp.sum(one.model.dictionary)), one.model))

    learner = Walk(base=Walk())
    options = {"at": range(6), "bases": bases, "keep": keep}
    found = fit(learner, tasks, KEYS, **options)
    assert sorted((place, step) for place, step, *_ in seen) == [
        (place, step) for place in (0, 1) for step in range(6)
    ]
    for _, _, total, model in seen:
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(model))
        assert float(jnp.sum(model.dictionary)) == total
    for model in (*bases, *ends(found)):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(model))
        assert np.isfinite(arrays(model)[0]).all()
    for task, key in zip(tasks, KEYS, strict=True):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((task, key)))
    assert len({total for _, _, total, _ in seen}) == 12
    # The first model is the base's, which is why it is the one in danger.
    for one, model in zip(found, bases, strict=True):
        np.testing.assert_array_equal(one.at(0).model.dictionary, model.dictionary)
    again = fit(learner, tasks, KEYS, **options)
    assert all(map(same_bits, ends(again), ends(found)))


def test_a_base_is_fitted_where_none_is_given(tasks):
    given = fit(Walk(rate=0.2, base=Walk()), tasks, KEYS, bases=ends(fit(Walk(), tasks, KEYS)))
    found = fit(Walk(rate=0.2, base=Walk()), tasks, KEYS)
    assert all(map(same_bits, ends(found), ends(given)))
    assert all(one.base_seconds > 0 for one in found)
    assert not any(one.base_seconds for one in given)


def test_an_integer_is_the_key_of_that_seed(tasks, along):
    for seeds in (range(2), np.arange(2)):
        assert all(map(same_bits, ends(fit(SAE, tasks, seeds)), ends(along)))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_fit_shows_its_steps_at_a_terminal_and_nowhere_else(tasks, monkeypatch):
    monkeypatch.setattr(loop, "run_loop", functools.partial(loop.run_loop, report_every=0.0))
    for stderr, options, shown in (
        (Terminal(), {}, True),
        (Terminal(), {"show_progress": False}, False),
        (io.StringIO(), {}, False),
    ):
        monkeypatch.setattr("sys.stderr", stderr)
        found = fit(Walk(num_steps=20), tasks, KEYS, **options)
        assert ("walk" in stderr.getvalue() and "40.0/40" in stderr.getvalue()) == shown
        assert shown or not stderr.getvalue()
        # What is shown pauses the loop, and changes no bit.
        assert all(map(same_bits, ends(found), ends(fit(Walk(num_steps=20), tasks, KEYS))))


class KilledError(Exception):
    pass


class Mortal(Checkpoint):
    """Dies after its third save."""

    saves = 0

    def store(self, state, seconds, *, step=0):
        super().store(state, seconds, step=step)
        self.saves += 1
        if self.saves == 3:
            raise KilledError


LEARNERS = {"sae": SAE, "online": OnlineDictionary(num_steps=6, visits=4), "walk": Walk(until=5.0)}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_killed_fit_ends_as_if_it_were_not(tmp_path, tasks, name):
    options = {"at": (2, 4)}
    whole = fit(LEARNERS[name], tasks, KEYS, **options)
    paths = [tmp_path / "0", tmp_path / "1"]
    before, after = [], []

    def going_on(kind, kept):
        saves = [kind(path, every=0) for path in paths]
        given = options | {"checkpoints": saves, "keep": lambda *found: kept.append(found)}
        return fit(LEARNERS[name], tasks, KEYS, **given)

    with pytest.raises(KilledError):
        going_on(Mortal, before)
    resumed = going_on(Checkpoint, after)
    assert steps(resumed) == steps(whole) and all(map(same_bits, ends(resumed), ends(whole)))
    assert {one.step for _, one in before} == {2} and {one.step for _, one in after} == {4}
    for place, one in (*before, *after):
        assert same_bits(one.model, whole[place].at(one.step).model)


def test_a_killed_fit_goes_on_in_its_own_precision(tmp_path):
    """A precision that is set for a block of code is set for one thread, and seeds have threads of
    their own.
    """
    with jax.enable_x64(True):
        tasks = [draw(Setting(20, 3, 200))]
        whole = fit(Walk(), tasks, KEYS[:1])
        with pytest.raises(KilledError):
            fit(Walk(), tasks, KEYS[:1], checkpoints=[Mortal(tmp_path, every=0)])
        resumed = fit(Walk(), tasks, KEYS[:1], checkpoints=[Checkpoint(tmp_path)])
        assert same_bits(*ends(resumed + whole))
        assert whole[0].end.model.dictionary.dtype == jnp.float64


def test_the_seconds_before_a_kill_count(tmp_path, tasks):
    save = Checkpoint(tmp_path, every=1e9)
    learner, data = loop._prepared(Walk()), Walk().select(tasks[0])
    program = loop.Program(learner, data, KEYS[0], {}, 20, devices.own_mesh())
    begun = program._start(learner, data, KEYS[0], {}, 20)
    begun = program._advance((learner, data, np.int32(3)), begun)
    save.store(begun, 1_000.0, step=3)
    (found,) = fit(Walk(), tasks[:1], KEYS[:1], at=(2, 4), checkpoints=[save])
    assert 1_000 < found.at(4).seconds < found.end.seconds < 1_010
    assert list(found.along) == [4] and found.end.step == 6


@pytest.mark.parametrize("cores", [1, 2])
def test_threads_that_fit_at_once_share_the_cores(tasks, monkeypatch, cores):
    running, most, lock, run = [0], [0], threading.Lock(), loop.Program.run
    together = threading.Barrier(cores)

    def counted(self, *args, **options):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        # As many as there are cores do meet here.
        together.wait(timeout=60)
        found = run(self, *args, **options)
        with lock:
            running[0] -= 1
        return found

    monkeypatch.setattr(loop.Program, "run", counted)
    monkeypatch.setattr(fitting, "at_once", lambda mesh: 4)
    monkeypatch.setattr(fitting, "LOOPS", threading.BoundedSemaphore(cores))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len([*pool.map(lambda _: fit(Walk(), tasks, KEYS), range(4))]) == 4
    assert most[0] == cores
