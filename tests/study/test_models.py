"""A fit is done once, whoever asks; whatever is damaged, foreign or hostile is fitted again to the right numbers."""

import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sae_gap.storage.checkpoints import Checkpoint

from sae_gap import Method, Models, Recording, Setting, Store, Study, draw, run
from sae_gap.core import identity
from sae_gap.core.types import Model
from sae_gap.data.activations import open_activations, save_activations
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.topk import TopK
from sae_gap.learners.learner import Learner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.metrics import gap
from sae_gap.storage import checkpoints
from sae_gap.study import models

SETTING = Setting(20, 3, 200)
SOURCES = (SETTING, Setting(20, 3, 200, seed=1))


class Walk(Learner):
    """A dictionary that takes random steps, and stops after `until` of them."""

    num_steps: int = eqx.field(static=True, default=6, kw_only=True)
    rate: float = 0.1
    until: float = 100.0

    landmarks = (1, 4, 50)

    def init(self, data, *, num_latents, key, base=None):
        atoms = jax.random.normal(key, (data.signals.shape[1], num_latents)) if base is None else base.decoder
        return atoms, jnp.zeros(()), key, jnp.mean(data.signals, axis=0)

    def step(self, data, state):
        atoms, count, key, mean = state
        noise = jax.random.normal(jax.random.fold_in(key, count.astype(int)), atoms.shape, atoms.dtype)
        return atoms + self.rate * noise, count + 1, key, mean

    def done(self, state):
        return state[1] >= self.until

    def model(self, state):
        return Model(state[0], state[3])


class OnHost(Learner):
    """One in Python."""

    num_steps: int = eqx.field(static=True, default=3, kw_only=True)

    on_host = True

    def learn(self, data, *, num_latents, key, base=None):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        atoms = rng.normal(size=(data.signals.shape[1], num_latents)).astype(np.float32)
        return Model(jnp.asarray(atoms), jnp.zeros(data.signals.shape[1], jnp.float32))


class Projection(Encoder):
    """Codes at the price of a product."""

    gain: float = 1.0

    def __call__(self, model, signals):
        return self.gain * (signals @ model.decoder)


def measure(inferred):
    return {"sum": float(np.sum(inferred.codes["id"]))}


def measure_more(inferred):
    return {"least": float(np.min(inferred.codes["ood"]))}


def make(*learners, sources=SOURCES, at=(), encoder=None, **options):
    methods = [Method(f"walk{i}", "sae", learner, encoder or Projection(), at=at) for i, learner in enumerate(learners)]
    options = {"name": "tiny", "metrics": (measure,)} | options
    return Study(sources=sources, methods=lambda _: methods, **options)


@pytest.fixture
def fits(monkeypatch):
    """The fits that are made, as names of classes with the number of tasks, those without a step apart."""
    made = []
    fit = models.fit

    def counting(learner, tasks, keys, **options):
        if learner.num_steps:
            made.append((type(learner).__name__, len(tasks)))
        return fit(learner, tasks, keys, **options)

    monkeypatch.setattr(models, "fit", counting)
    return made


def arrays(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def same_bits(model, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(model), arrays(other), strict=True))


@pytest.fixture(scope="module")
def tasks():
    return [draw(source) for source in SOURCES]


@pytest.fixture(scope="module")
def expected(tasks):
    """The models of the walk at steps 0 to 5 and at its end, fitted without a folder."""
    (outcome,) = Models().fit(Walk(), SOURCES[:1], tasks[:1], range(6))
    return [outcome.at(step).model for step in range(6)] + [outcome.end.model]


def fit_one(folder, tasks, learner=None, at=(), source=SETTING):
    (outcome,) = Models(folder).fit(Walk() if learner is None else learner, [source], tasks[:1], at)
    return outcome


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_fit_lies_in_a_folder_of_its_own(tmp_path, tasks, expected, fits):
    outcome = fit_one(tmp_path / "models", tasks, at=(2, 6))
    (folder,) = (tmp_path / "models").iterdir()
    assert folder == Models(tmp_path / "models").folder(Walk(), SETTING) and folder.name.startswith("walk-")
    assert files(folder) == ["000001.npz", "000002.npz", "000004.npz", "000006-end.npz"]
    again = fit_one(tmp_path / "models", tasks, at=(2, 4, 6))
    assert fits == [("Walk", 1)]
    for found in (outcome, again):
        assert found.end.step == 6 and same_bits(found.end.model, expected[6]) and found.at(None) is found.end
        assert same_bits(found.at(2).model, expected[2]) and found.at(6) is found.end and found.at(2).step == 2
    assert same_bits(again.at(4).model, expected[4])
    assert again.end.seconds == outcome.end.seconds and again.at(2).seconds == outcome.at(2).seconds
    assert again.compile_seconds == outcome.compile_seconds > 0


def test_a_store_without_a_folder_keeps_nothing(tasks, fits):
    for _ in range(2):
        assert Models().fit(Walk(), SOURCES[:1], tasks[:1], (2,))[0].at(2).step == 2
    assert len(fits) == 2 and Models().size() == 0 and Models().missing(Walk(), SETTING) == [Walk()]


def test_who_takes_no_step_is_not_kept(tmp_path, tasks):
    Models(tmp_path).fit(Oracle(), SOURCES, tasks)
    Models(tmp_path).fit(LinearProbe(), SOURCES, tasks)
    assert list(tmp_path.iterdir()) == [] and Models(tmp_path).missing(Oracle(), SETTING) == []


SAME = {
    "the same": make(Walk()),
    "another name": make(Walk(), name="other"),
    "another metric": make(Walk(), metrics=(measure_more,)),
    "another λ": make(Walk(), lam=0.2),
    "another encoder": make(Walk(), encoder=Projection(2.0)),
    "another protocol": make(Walk(), protocol="paper"),
    "landmarks": make(Walk(), at=(1, 4, 6)),
    "half of the seeds": make(Walk(), sources=SOURCES[1:]),
}
DIFFERENT = {
    "rate": (make(Walk(0.2)), 2),
    "steps": (make(Walk(num_steps=7)), 2),
    "not a landmark": (make(Walk(), at=(2,)), 2),
    "another seed": (make(Walk(), sources=(*SOURCES, Setting(20, 3, 200, seed=2))), 1),
    "other samples": (make(Walk(), sources=(Setting(20, 3, 202),)), 1),
    "noise": (make(Walk(), sources=(Setting(20, 3, 200, noise_db=20.0),)), 1),
    "a stream": (make(Walk(), sources=(Setting(20, 3, 200, stream=True),)), 1),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder of models of the walk."""
    folder = tmp_path_factory.mktemp("filled")
    run(make(Walk()), Store(folder / "rows"), models=Models(folder / "models"))
    return folder / "models"


@pytest.fixture
def folder(filled, tmp_path):
    return pathlib.Path(shutil.copytree(filled, tmp_path / "models"))


@pytest.mark.parametrize("name", SAME)
def test_a_second_study_fits_nothing(folder, tmp_path, fits, name):
    rows = run(SAME[name], Store(tmp_path / "rows"), models=Models(folder))
    assert fits == [] and rows and all(row["fit_steps"] in (1, 4, 6) and row["fit_seconds"] > 0 for row in rows)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_changes_a_model_is_fitted(folder, tmp_path, fits, name):
    study, count = DIFFERENT[name]
    run(study, Store(tmp_path / "rows"), models=Models(folder))
    assert fits == [("Walk", count)]
    run(study, Store(tmp_path / "again"), models=Models(folder))
    assert len(fits) == 1


def test_another_precision_is_fitted(folder, fits, tasks):
    with jax.enable_x64(True):
        outcome = Models(folder).fit(Walk(), SOURCES[:1], [draw(SETTING)])[0]
        assert outcome.end.model.dictionary.dtype == jnp.float64
    assert fits == [("Walk", 1)]
    assert Models(folder).fit(Walk(), SOURCES[:1], tasks[:1])[0].end.model.dictionary.dtype == jnp.float32
    assert len(fits) == 1


@pytest.mark.parametrize("name", ["jax", "jaxlib", "equinox", "optax"])
def test_another_version_is_fitted(folder, monkeypatch, name):
    found = models.results.provenance() | {name: "0.0.1"}
    assert Models(folder).missing(Walk(), SETTING) == []
    monkeypatch.setattr(models.results, "provenance", lambda: found)
    assert Models(folder).missing(Walk(), SETTING) == [Walk()]


def test_stale_code_is_fitted(folder, monkeypatch, fits, tasks):
    monkeypatch.setattr(identity, "code", lambda learner: "0" * 16)
    Models(folder).fit(Walk(), SOURCES[:1], tasks[:1])
    assert fits == [("Walk", 1)] and len(list(folder.iterdir())) == 3


def test_another_form_of_files_is_fitted(folder, monkeypatch):
    monkeypatch.setattr(models, "SCHEMA", models.SCHEMA + 1)
    assert Models(folder).missing(Walk(), SETTING) == [Walk()]


def test_another_kind_of_device_is_fitted(folder, monkeypatch):
    monkeypatch.setattr(models.jax, "default_backend", lambda: "gpu")
    assert Models(folder).missing(Walk(), SETTING) == [Walk()]


def test_a_recording_is_known_by_its_content(tmp_path, arrays_of_a_file, fits):
    np.savez(tmp_path / "one.npz", **arrays_of_a_file)
    shutil.copy(tmp_path / "one.npz", tmp_path / "two.npz")
    for name in ("one.npz", "two.npz"):
        source = Recording(tmp_path / name, 20, sparsity=3)
        Models(tmp_path / "models").fit(Walk(), [source], [source.task()])
    assert len(fits) == 1
    np.savez(tmp_path / "two.npz", **arrays_of_a_file | {"Y_train": 2 * arrays_of_a_file["Y_train"]})
    source = Recording(tmp_path / "two.npz", 20, sparsity=3)
    Models(tmp_path / "models").fit(Walk(), [source], [source.task()])
    assert len(fits) == 2


@pytest.mark.parametrize("save", [save_activations, lambda path, rows, _: np.save(path, rows)])
def test_activations_are_split_and_known_by_their_content(tmp_path, save):
    rows = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
    names = ["one.npy", "two.npy"] if save is not save_activations else ["one.npz", "two.npz"]
    for name in names:
        save(tmp_path / name, rows, np.arange(100) // 10)
    source, copy = (Recording(tmp_path / name, 20, sparsity=3, held_out=0.2) for name in names)
    train, held = open_activations(tmp_path / names[0]).split(0.2)
    task = source.task()
    np.testing.assert_array_equal(task.train.signals, train.take(np.arange(80)))
    np.testing.assert_array_equal(task.id.signals, held.take(np.arange(20)))
    assert task.ood is task.id and (source.num_train, source.input_dim, task.width) == (80, 12, 20)
    assert source.asdict() == copy.asdict() and source.asdict()["num_samples"] == 100
    other = dataclasses.replace(source, seed=1)
    np.testing.assert_array_equal(other.task().train.signals, task.train.signals)
    assert dataclasses.replace(source, held_out=0.3).asdict() != source.asdict()
    save(tmp_path / names[1], 2 * rows, np.arange(100) // 10)
    assert source.asdict() != copy.asdict()
    with pytest.raises(ValueError, match="give width"):
        Recording(tmp_path / names[0], held_out=0.2).task()


@pytest.fixture
def arrays_of_a_file(arrays):
    return {name: array for name, array in arrays.items() if name.startswith("Y")}


def test_seeds_and_learners_have_keys_of_their_own(tasks):
    same = [tasks[0], dataclasses.replace(tasks[0], seed=1)]
    first, second = Models().fit(Walk(), SOURCES, same)
    assert not same_bits(first.end.model, second.end.model)
    assert not np.array_equal(*(jax.random.key_data(models._random_key(learner, tasks[0])) for learner in (Walk(), OnHost())))


def test_a_learner_on_a_base_is_fitted_through_the_folder(tmp_path, fits, tasks):
    store = Models(tmp_path)
    based = [Walk(rate, base=Walk()) for rate in (0.3, 0.4)]
    assert store.missing(based[0], SETTING) == [Walk(), based[0]]
    found = [store.fit(learner, SOURCES, tasks) for learner in based]
    assert fits == [("Walk", 2)] * 3 and len(list(tmp_path.iterdir())) == 6
    base = store.fit(Walk(), SOURCES, tasks)
    again = [store.fit(learner, SOURCES, tasks) for learner in based]
    assert len(fits) == 3 and store.missing(based[0], SETTING) == []
    for outcomes, others in zip(found, again, strict=True):
        for outcome, other, begun in zip(outcomes, others, base, strict=True):
            assert same_bits(outcome.end.model, other.end.model)
            # A walk of six steps from where the base ended.
            moved = np.std(outcome.end.model.dictionary - begun.end.model.dictionary)
            assert moved == pytest.approx(outcome_rate(outcomes, found) * 6**0.5, rel=0.2)


def outcome_rate(outcomes, found):
    return 0.3 if outcomes is found[0] else 0.4


def test_a_base_may_run_on_the_host(tmp_path, fits, tasks):
    learner = Walk(base=OnHost())
    first = fit_one(tmp_path, tasks, learner, (0,))
    second = fit_one(tmp_path, tasks, learner, (0,))
    assert fits == [("OnHost", 1), ("Walk", 1)]
    base = fit_one(tmp_path, tasks, OnHost())
    assert len(fits) == 2 and base.end.step == 3
    for outcome in (first, second):
        np.testing.assert_array_equal(outcome.at(0).model.dictionary, base.end.model.dictionary)
        assert same_bits(outcome.end.model, first.end.model)


def test_the_encoder_of_a_model_comes_back_with_it(tmp_path, tasks, fits):
    learner = SparseAutoencoder(TopK(3), num_steps=2)
    first, second = (fit_one(tmp_path, tasks, learner, (1,)) for _ in range(2))
    assert fits == [("SparseAutoencoder", 1)]
    for outcome in (first, second):
        assert outcome.end.model.encode == outcome.at(1).model.encode == TopK(3)
    signals = tasks[0].id.signals
    np.testing.assert_array_equal(*(TopK(3)(outcome.end.model, signals) for outcome in (first, second)))


def test_an_early_stop_is_the_end_of_all_later_steps(tmp_path, tasks, fits):
    learner = Walk(until=3.0)
    for _ in range(2):
        outcome = fit_one(tmp_path, tasks, learner, (1, 2, 4, 5))
        assert outcome.end.step == 3 and outcome.at(5) is outcome.at(4) is outcome.end and outcome.at(2).step == 2
    assert len(fits) == 1 and Models(tmp_path).missing(learner, SETTING, (1, 5, 6)) == []


def test_hyper_parameters_may_be_any_numbers(tmp_path, tasks, fits):
    for _ in range(2):
        fit_one(tmp_path, tasks, Walk(np.float32(0.1), until=float("inf")))
    assert len(fits) == 1


class KilledError(Exception):
    pass


@pytest.mark.parametrize("saves", [1, 3, 5])
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch, tasks, expected, saves):
    class Mortal(Checkpoint):
        count = 0

        def store(self, state, seconds, *, step=0):
            super().store(state, seconds, step=step)
            type(self).count += 1
            if self.count == saves:
                raise KilledError

    loaded = []

    class Telling(Checkpoint):
        def load(self, like):
            found = super().load(like)
            loaded.append(None if found is None else int(found[0][0]))
            return found

    with monkeypatch.context() as patched:
        patched.setattr(models, "Checkpoint", Mortal)
        with pytest.raises(KilledError):
            Models(tmp_path, every=0).fit(Walk(), SOURCES[:1], tasks[:1], (0, 2, 3))
    (folder,) = tmp_path.iterdir()
    assert (folder / "state.npz").exists() and not list(folder.glob("*-end.npz"))
    assert Models(tmp_path).missing(Walk(), SETTING) == [Walk()]
    monkeypatch.setattr(models, "Checkpoint", Telling)
    (outcome,) = Models(tmp_path, every=0).fit(Walk(), SOURCES[:1], tasks[:1], (0, 2, 3))
    assert loaded == [saves]
    assert all(same_bits(outcome.at(step).model, expected[step]) for step in (0, 2, 3, 6))
    assert files(folder) == [f"{step:06d}.npz" for step in (0, 1, 2, 3, 4)] + ["000006-end.npz"]
    for step in (0, 1, 2, 3, 4):
        saved = checkpoints.read(folder / f"{step:06d}.npz", {"model": expected[0]})
        assert same_bits(saved.parts["model"], expected[step]) and saved.note["step"] == step


def test_a_finished_fit_leaves_no_states_and_no_drafts(tmp_path, tasks):
    code = "import sys, pathlib; from sae_gap import files; print(files.draft_of(pathlib.Path(sys.argv[1])))"
    folder = Models(tmp_path).folder(Walk(), SETTING)
    folder.mkdir()
    draft = subprocess.check_output([sys.executable, "-c", code, str(folder / "000003.npz")], text=True).strip()
    for left in (pathlib.Path(draft), folder / "state-of-other-seeds.npz"):
        left.write_bytes(b"half")
    Models(tmp_path, every=0).fit(Walk(), SOURCES[:1], tasks[:1], (0, 2, 3))
    assert files(folder) == [f"{step:06d}.npz" for step in (0, 1, 2, 3, 4)] + ["000006-end.npz"]


def killed_after(folder, tasks, monkeypatch, saves, at):
    class Mortal(Checkpoint):
        count = 0

        def store(self, state, seconds, *, step=0):
            super().store(state, seconds, step=step)
            type(self).count += 1
            if self.count == saves:
                raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(models, "Checkpoint", Mortal)
        with pytest.raises(KilledError):
            Models(folder, every=0).fit(Walk(), SOURCES[:1], tasks[:1], at)
    return Models(folder).folder(Walk(), SETTING)


@pytest.mark.parametrize("damage", ["state", "snapshot", "no snapshot", "other state"])
def test_a_killed_fit_with_damage_is_fitted_again(tmp_path, monkeypatch, tasks, expected, damage):
    folder = killed_after(tmp_path, tasks, monkeypatch, 4, (2, 3))
    path = folder / ("state.npz" if "state" in damage else "000002.npz")
    content = bytearray(path.read_bytes())
    if damage == "no snapshot":
        path.unlink()
    elif damage == "other state":
        note = checkpoints.read(path, {}).note
        random = checkpoints.read(path, {"state": blank_state()}).parts["state"]
        checkpoints.write(path, {"state": random}, note | {"fit": "walk-0123456789abcdef"})
    else:
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    outcome = fit_one(tmp_path, tasks, at=(2, 3))
    assert all(same_bits(outcome.at(step).model, expected[step]) for step in (2, 3, 6))
    assert not (folder / "state.npz").exists()
    again = fit_one(tmp_path, tasks, at=(2, 3))
    assert all(same_bits(again.at(step).model, expected[step]) for step in (2, 3, 6))


def blank_state():
    key = jax.random.key(0)
    return jnp.zeros((), jnp.int32), (jnp.zeros((12, 20)), jnp.zeros(()), key, jnp.zeros(12))


def test_a_state_that_another_process_took_further_loses_no_model(tmp_path, monkeypatch, tasks, expected):
    """While this process compiles, another one saves a later state, with models that this one never sees in its own loop."""
    folder = killed_after(tmp_path / "there", tasks, monkeypatch, 4, (2, 3))
    load, mine = Checkpoint.load, Models(tmp_path / "here").folder(Walk(), SETTING)

    def late(self, like):
        shutil.copytree(folder, mine, dirs_exist_ok=True)
        return load(self, like)

    monkeypatch.setattr(Checkpoint, "load", late)
    outcome = fit_one(tmp_path / "here", tasks, at=(2, 3))
    assert all(same_bits(outcome.at(step).model, expected[step]) for step in (2, 3, 6))


LONG = SparseAutoencoder(TopK(3), num_steps=3_000)
SCRIPT = """
from sae_gap import Models, Setting, draw
from sae_gap.encoders.topk import TopK
from sae_gap.learners.sae import SparseAutoencoder
import sys

source = Setting(20, 3, 200)
learner = SparseAutoencoder(TopK(3), num_steps=3_000)
Models(sys.argv[1], every=0.0).fit(learner, [source], [draw(source)], (2, 5))
"""


def test_a_fit_that_is_really_killed_goes_on_to_the_same_bits(tmp_path, tasks):
    whole = fit_one(tmp_path / "whole", tasks, LONG, (2, 5))
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path / "killed"], cwd=root, stderr=subprocess.PIPE, text=True)
    folder = Models(tmp_path / "killed").folder(LONG, SETTING)
    while process.poll() is None and not (folder / "000021.npz").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, logged = process.communicate()
    assert process.returncode == -signal.SIGKILL, logged
    note = checkpoints.read(folder / "state.npz", {}).note
    assert 0 < note["step"] < 3_000 and not list(folder.glob("*-end.npz"))
    began = (folder / "000005.npz").stat().st_mtime_ns
    outcome = fit_one(tmp_path / "killed", tasks, LONG, (2, 5))
    assert (folder / "000005.npz").stat().st_mtime_ns == began
    assert all(same_bits(outcome.at(step).model, whole.at(step).model) for step in (2, 5, None))
    names = [path.name for path in sorted(folder.glob("[0-9]*.npz"))]
    assert names == [path.name for path in sorted(Models(tmp_path / "whole").folder(LONG, SETTING).iterdir())]
    like = {"model": dataclasses.replace(whole.end.model, encode=None)}
    for name in names:
        pair = [
            checkpoints.read(home / name, like).parts["model"] for home in (folder, folder.parents[1] / "whole" / folder.name)
        ]
        assert same_bits(*pair), name


TWO = """
import sys

from sae_gap import Method, Models, Setting, Store, Study, run
from sae_gap.encoders.topk import TopK
from sae_gap.learners.sae import SparseAutoencoder
from sae_gap.metrics import gap

learner = SparseAutoencoder(TopK(3), num_steps=60)
methods = [Method("sae", "sae", learner, TopK(3), at=(2, 30, 60))]
study = Study("two", [Setting(20, 3, 200), Setting(20, 3, 200, seed=1)], lambda _: methods, metrics=(gap.measure,))
run(study, Store(sys.argv[1]), models=Models(sys.argv[2], every=0.0))
"""


def test_two_processes_may_share_a_folder(tmp_path, fits):
    learner = SparseAutoencoder(TopK(3), num_steps=60)
    methods = [Method("sae", "sae", learner, TopK(3), at=(2, 30, 60))]
    study = Study("two", SOURCES, lambda _: methods, metrics=(gap.measure,))
    alone = run(study, Store(tmp_path / "alone"), models=Models(tmp_path / "alone" / "models"))
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", TWO, tmp_path / "rows", tmp_path / "models"]
    started = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        _, logged = process.communicate()
        assert process.returncode == 0, logged
    assert timeless(run(study, Store(tmp_path / "rows"), models=Models(tmp_path / "models"))) == timeless(alone)
    assert len(alone) == 6 and len(fits) == 1
    names = [f"{step:06d}.npz" for step in (1, 2, 11, 21, 30, 51)] + ["000060-end.npz"]
    folders = sorted((tmp_path / "models").iterdir())
    assert len(folders) == 2 and all(files(folder) == names for folder in folders)
    outcomes = Models(tmp_path / "models").fit(learner, SOURCES, [draw(source) for source in SOURCES], (2, 30))
    others = Models(tmp_path / "alone" / "models").fit(learner, SOURCES, [draw(source) for source in SOURCES], (2, 30))
    assert len(fits) == 1
    for outcome, other in zip(outcomes, others, strict=True):
        assert all(same_bits(outcome.at(step).model, other.at(step).model) for step in (2, 30, None))


def timeless(rows):
    # A revision may gain an edit while tests run.
    apart = ("revision",)
    return [{name: v for name, v in row.items() if not name.endswith("_seconds") and name not in apart} for row in rows]


def npy(header, data=b""):
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


class Payload:
    """Would leave a file behind if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


def hostile(path, *, method=zipfile.ZIP_STORED, note=None, **members):
    """Replaces members of a good file."""
    with zipfile.ZipFile(path) as archive:
        whole = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    if note is not None:
        whole["note"] = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(note)},), }}", note)
    path.unlink()
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (whole | members).items():
            archive.writestr(f"{name}.npy", content)


def renoted(**changes):
    def change(path):
        note = checkpoints.read(path, {}).note
        kept = {name: value for name, value in (note | changes).items() if value is not ...}
        hostile(path, note=json.dumps(kept).encode())

    return change


def flipped(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"model0.npy") + 400] ^= 1
    path.write_bytes(content)


def swapped(path):
    """The file of another seed in the place of this one's."""
    (other,) = (folder for folder in path.parents[1].iterdir() if folder != path.parent)
    shutil.copy(other / path.name, path)


def another_step(path):
    shutil.copy(path.parent / ("000004.npz" if path.name == "000001.npz" else "000001.npz"), path)


def in_the_way(make):
    def change(path):
        path.unlink()
        make(path)

    return change


def replaced(content):
    return lambda path: path.write_bytes(content(path.read_bytes()))


SHAPED = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}"
DAMAGE = {
    "flipped": flipped,
    "cut": replaced(lambda content: content[: len(content) // 2]),
    "empty": replaced(lambda _: b""),
    "garbage": replaced(lambda _: b"garbage" * 100),
    "of another seed": swapped,
    "of another step": another_step,
    "gone": pathlib.Path.unlink,
    "a directory": in_the_way(pathlib.Path.mkdir),
    "a FIFO": in_the_way(os.mkfifo),
    "a link to nowhere": in_the_way(lambda path: path.symlink_to("/nowhere/at/all")),
    "pickled": lambda path: hostile(
        path, model0=npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", pickle.dumps(Payload()))
    ),
    "a pickle": replaced(lambda _: pickle.dumps(Payload())),
    "huge": lambda path: hostile(path, model0=npy(SHAPED.format(f"({2**40},)"), bytes(4))),
    "nested": lambda path: hostile(path, model0=npy("(" * 9_000 + ")" * 9_000)),
    "a nested note": lambda path: hostile(path, note=b"[" * 30_000 + b"]" * 30_000),
    "a huge note": lambda path: hostile(path, note=b" " * 2**22),
    "compressed": lambda path: hostile(path, method=zipfile.ZIP_DEFLATED),
    "other shape": lambda path: hostile(path, model0=npy(SHAPED.format("(20, 12)"), bytes(960))),
    "other type": lambda path: hostile(path, model0=npy(SHAPED.replace("<f4", "<f8").format("(12, 20)"), bytes(1_920))),
    "one more array": lambda path: hostile(path, model2=npy(SHAPED.format("()"), bytes(4))),
    "no seconds": renoted(seconds=...),
    "endless seconds": renoted(seconds=float("inf")),
    "seconds in words": renoted(seconds="1"),
    "seconds of an age": renoted(seconds=1e308),
    "seconds before the start": renoted(seconds=-5.0),
    "a list of devices": renoted(device=["cpu"]),
    "no fit": renoted(fit=...),
    "no step": renoted(step=...),
    "a note of nothing": lambda path: hostile(path, note=b"{}"),
}


@pytest.mark.parametrize("name", ["000006-end.npz", "000001.npz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_fitted_again(folder, monkeypatch, tmp_path, tasks, expected, fits, damage, name):
    monkeypatch.chdir(tmp_path)
    path = Models(folder).folder(Walk(), SETTING) / name
    DAMAGE[damage](path)
    tracemalloc.start()
    try:
        outcome = fit_one(folder, tasks, at=(1, 4))
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
    assert fits == [("Walk", 1)] and not (tmp_path / "hacked").exists()
    assert all(same_bits(outcome.at(step).model, expected[step]) for step in (1, 4, 6)) and outcome.end.step == 6
    again = fit_one(folder, tasks, at=(1, 4))
    # A directory is not ours to remove.
    assert len(fits) == (2 if damage == "a directory" else 1)
    assert all(same_bits(again.at(step).model, expected[step]) for step in (1, 4, 6))


def test_a_bomb_is_fitted_again(folder, tasks, expected, fits):
    path = Models(folder).folder(Walk(), SETTING) / "000006-end.npz"
    with zipfile.ZipFile(path) as archive:
        whole = {name: archive.read(name) for name in archive.namelist() if name != "model0.npy"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in whole.items():
            archive.writestr(name, content, zipfile.ZIP_STORED)
        with archive.open("model0.npy", "w") as member:
            for _ in range(2**10):
                member.write(bytes(2**20))
    assert path.stat().st_size < 10 * 2**20
    tracemalloc.start()
    try:
        outcome = fit_one(folder, tasks)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
    assert fits == [("Walk", 1)] and same_bits(outcome.end.model, expected[6])


@pytest.mark.parametrize(
    "extra", ["000001-end.npz", "000000-end.npz", "x-end.npz", "-end.npz", "9" * 5_0 + "-end.npz", "a.npz"]
)
def test_strange_names_beside_a_fit_do_no_harm(folder, tasks, expected, fits, extra):
    home = Models(folder).folder(Walk(), SETTING)
    shutil.copy(home / "000006-end.npz", home / extra)
    outcome = fit_one(folder, tasks, at=(1, 4))
    assert fits == [] and same_bits(outcome.end.model, expected[6]) and outcome.end.step == 6
    assert Models(folder).estimate(Walk(), 100, 12, 20) >= 0


@pytest.mark.parametrize("cause", ["full", "a file in its place", "a file in the place of the fit"])
def test_a_run_goes_on_where_nothing_can_be_kept(tmp_path, monkeypatch, fits, caplog, cause):
    def full(*_):
        raise OSError(28, "No space left on device")

    place = tmp_path / "models"
    if cause == "full":
        monkeypatch.setattr(checkpoints, "write_atomically", full)
    elif cause == "a file in its place":
        place.write_text("mine")
    else:
        place.mkdir()
        for source in SOURCES:
            Models(place).folder(Walk(), source).write_text("mine")
    rows = run(make(Walk(), at=(2, 6)), Store(tmp_path / "rows"), models=Models(place, every=0))
    assert len(rows) == 4 and [row["fit_steps"] for row in rows] == [2, 2, 6, 6] and fits == [("Walk", 2)]
    assert "going on without saving the fit" in caplog.text
    assert cause == "full" or all(
        path.read_text() == "mine" for path in place.parent.rglob("*") if "rows" not in str(path) and path.is_file()
    )
    assert Models(place).missing(Walk(), SETTING) == [Walk()] and Models(place).size() in (0, 8)


def test_a_folder_that_is_read_only_is_still_read(folder, tasks, expected, fits, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints, "write_atomically", deny)
    assert same_bits(fit_one(folder, tasks).end.model, expected[6]) and fits == []


def test_size_counts_every_file(folder, tmp_path):
    every = [path for path in folder.rglob("*") if path.is_file()]
    assert len(every) == 6 and Models(folder).size() == sum(len(path.read_bytes()) for path in every)
    assert Models(tmp_path / "not there").size() == 0 and not (tmp_path / "not there").exists()


def test_what_is_missing_is_told_by_names_alone(folder, tmp_path):
    store = Models(folder)
    assert store.missing(Walk(), SETTING) == store.missing(Walk(), SETTING, (1, 4, 6)) == []
    assert store.missing(Walk(), SETTING, (2,)) == [Walk()]
    assert store.missing(Walk(0.2), SETTING) == [Walk(0.2)]
    on = Walk(0.2, base=Walk(0.3, base=Walk()))
    assert store.missing(on, SETTING) == [on.base, on]
    assert Models(tmp_path / "not there").missing(Walk(), SETTING) == [Walk()] and not (tmp_path / "not there").exists()


def test_the_time_of_a_fit_is_told_from_those_of_its_kind(folder):
    store = Models(folder)
    seconds = []
    for path in folder.glob("*/*-end.npz"):
        note = checkpoints.read(path, {}).note
        assert note["work"] == Walk().work(100, 12, 20) == 3 * 6 * 100 * 12 * 20
        checkpoints.write(path, {}, note | {"seconds": 0.5})
        seconds.append(0.5)
    assert len(seconds) == 2
    assert store.estimate(Walk(), 100, 12, 20) == pytest.approx(0.5)
    assert store.estimate(Walk(num_steps=12), 200, 12, 20) == pytest.approx(2.0)
    # Nothing is known of these.
    assert Models(None).estimate(Walk(), 100, 12, 20) == store.estimate(OnHost(num_steps=6), 100, 12, 20) > 0


def test_the_nearest_fit_of_a_kind_tells_its_time(folder):
    for place, path in enumerate(sorted(folder.glob("*/*-end.npz"))):
        note = checkpoints.read(path, {}).note
        checkpoints.write(path, {}, note | {"seconds": [1.0, 1_000.0][place], "work": [1e6, 1e9][place]})
    assert Models(folder).estimate(Walk(num_steps=10), 100, 100, 10) == pytest.approx(3e6 * 1e-6)
    assert Models(folder).estimate(Walk(num_steps=1_000), 1_000, 100, 10) == pytest.approx(3e9 * 1e-6)


@pytest.mark.parametrize("work", [0.0, -1.0, 1e-320, 1e308, float("inf"), float("nan"), "1", None, [1.0]])
@pytest.mark.parametrize("name", ["work", "seconds"])
def test_an_estimate_takes_no_nonsense(folder, work, name):
    for path in folder.glob("*/*-end.npz"):
        renoted(**{name: work})(path)
    found = Models(folder).estimate(Walk(), 100, 12, 20)
    assert 0 <= found < 1e9


def test_whoever_watches_is_told_of_bases_too(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr("sae_gap.study.fitting._REPORT_EVERY", 0.0)
    seen = []
    learner = Walk(0.2, base=Walk())
    Models(tmp_path).fit(learner, SOURCES, tasks, watch=lambda learner, place, steps: seen.append((learner, place, steps)))
    for one in (Walk(), learner):
        for place in (0, 1):
            steps = [found for other, where, found in seen if other == one and where == place]
            assert steps == sorted(set(steps)) and steps[-1] == 6
    # Of two seeds, one is there: the other keeps its own number.
    shutil.rmtree(Models(tmp_path).folder(learner, SOURCES[1]))
    seen.clear()
    Models(tmp_path).fit(learner, SOURCES, tasks, watch=lambda learner, place, steps: seen.append((learner, place, steps)))
    assert {(one, place) for one, place, _ in seen} == {(learner, 1)}


def test_names_of_folders_are_safe(tmp_path):
    class Named(Walk):
        @property
        def name(self):
            return "../../Ünsafe/*"

    folder = Models(tmp_path).folder(Named(), SETTING)
    assert folder.parent == tmp_path and folder.name.startswith("nsafe-")
