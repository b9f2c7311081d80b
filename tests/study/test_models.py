"""A fit is done once, whoever asks; what is damaged or foreign is fitted again, and a killed fit
goes on to the same bits.
"""

import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Models, Setting, draw
from sae_gap.core import identity
from sae_gap.core.types import Model
from sae_gap.data.activations import open_activations, save_activations
from sae_gap.data.held_out import HeldOut
from sae_gap.encoders.topk import TopK
from sae_gap.learners.learner import HostLearner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.storage.trees import Checkpoint
from sae_gap.study import models
from tests.study.test_fitting import KilledError, Walk, same_bits

SETTING = Setting(20, 3, 200)
SOURCES = (SETTING, Setting(20, 3, 200, seed=1))
LAST = ["fit.json", "fit.safetensors"]


class OnHost(HostLearner):
    """One in Python."""

    num_steps: int = eqx.field(static=True, default=3, kw_only=True)

    def learn(self, data, *, num_latents, key, base=None):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        atoms = rng.normal(size=(data.signals.shape[1], num_latents)).astype(np.float32)
        return Model(jnp.asarray(atoms), jnp.zeros(data.signals.shape[1], jnp.float32))


@pytest.fixture
def fits(monkeypatch):
    """The fits that are made, as names of classes with the number of tasks, those without a step
    apart.
    """
    made = []
    fit = models.fit

    def counting(learner, tasks, keys, **options):
        if learner.num_steps:
            made.append((type(learner).__name__, len(tasks)))
        return fit(learner, tasks, keys, **options)

    monkeypatch.setattr(models, "fit", counting)
    return made


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
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def along(*steps):
    return [f"{step:06d}.safetensors" for step in steps]


def test_a_fit_lies_in_a_folder_of_its_own_and_is_read_back(tmp_path, tasks, expected, fits):
    outcome = fit_one(tmp_path / "models", tasks, at=(2, 6))
    (folder,) = (tmp_path / "models").iterdir()
    assert str(folder) == str(Models(tmp_path / "models").folder(Walk(), SETTING))
    assert folder.name.startswith("walk-")
    assert files(folder) == along(1, 2, 4) + LAST
    told = json.loads((folder / "fit.json").read_text())
    assert told["step"] == 6
    assert told["learner"]["class"] == "tests.Walk"
    assert told["source"]["num_latents"] == 20
    again = fit_one(tmp_path / "models", tasks, at=(2, 4, 6))
    assert fits == [("Walk", 1)]
    for found in (outcome, again):
        assert found.end.step == 6
        assert same_bits(found.end.model, expected[6])
        assert found.at(None) is found.end
        assert same_bits(found.at(2).model, expected[2])
        assert found.at(6) is found.end
        assert found.at(2).step == 2
    assert same_bits(again.at(4).model, expected[4])
    assert again.end.seconds == outcome.end.seconds
    assert again.compile_seconds == outcome.compile_seconds > 0
    # Where a model that is asked for along the fit was not kept, the fit is made again.
    assert same_bits(fit_one(tmp_path / "models", tasks, at=(3,)).at(3).model, expected[3])
    assert len(fits) == 2


def test_nothing_is_kept_without_a_folder_or_of_who_takes_no_step(tmp_path, tasks, fits):
    for _ in range(2):
        Models().fit(Walk(), SOURCES[:1], tasks[:1])
        Models(tmp_path).fit(Oracle(), SOURCES[:1], tasks[:1])
    assert fits == [("Walk", 1)] * 2 and files(tmp_path) == []
    assert Models().folder(Walk(), SETTING) is None
    assert Models(tmp_path).missing(Oracle(), SETTING) == []


DIFFERENT = {
    "rate": (Walk(0.2), SETTING),
    "steps": (Walk(num_steps=5), SETTING),
    "base": (Walk(base=Oracle()), SETTING),
    "class": (OnHost(), SETTING),
    "seed": (Walk(), SOURCES[1]),
    "samples": (Walk(), Setting(20, 3, 202)),
    "noise": (Walk(), Setting(20, 3, 200, noise_db=20.0)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_decides_a_model_is_in_its_name(name):
    assert str(Models("x").folder(*DIFFERENT[name])) != str(Models("x").folder(Walk(), SETTING))


@pytest.mark.parametrize("name", ["version", "numerics", "platform", "precision"])
def test_so_are_versions_and_where_it_runs(monkeypatch, name):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before = str(Models("x").folder(Walk(), SETTING))
    if name == "version":
        monkeypatch.setattr(Walk, "version", 2, raising=False)
    elif name == "numerics":
        monkeypatch.setattr(identity, "NUMERICS", identity.NUMERICS + 1)
    elif name == "platform":
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with jax.enable_x64(name == "precision"):
        assert str(Models("x").folder(Walk(), SETTING)) != before


def test_equal_learners_have_one_name_whatever_their_numbers_are_made_of(monkeypatch):
    before = str(Models("x").folder(Walk(2.0), SETTING))
    monkeypatch.setattr(Walk, "__module__", "tests.elsewhere")
    assert {str(Models("x").folder(Walk(rate), SETTING)) for rate in (2, np.float32(2), 2.0)} == {
        before
    }


def test_activations_are_known_by_their_content(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    names = []
    for file, scale in (("a.npz", 1.0), ("b.npz", 1.0), ("c.npz", 2.0)):
        save_activations(tmp_path / file, scale * rows, np.repeat(np.arange(6), 10))
        source = HeldOut(open_activations(tmp_path / file), 8, 2)
        names.append(str(Models("x").folder(Walk(), source)))
    assert names[0] == names[1] != names[2]
    # Of their fits no model along the fit is kept that nobody asked for.
    fit = Models(tmp_path / "kept").fit(Walk(), [source], [source.task()], (2,))
    assert files(tmp_path / "kept" / pathlib.Path(names[2]).name) == along(2) + LAST
    assert [*fit[0].along] == [2]


def test_seeds_and_learners_have_keys_of_their_own(tasks):
    def key(learner, task):
        return jax.random.key_data(models._Wanted(learner, SETTING, task, None, None, True).key)

    assert len({str(key(learner, task)) for learner in (Walk(), OnHost()) for task in tasks}) == 4


def test_a_learner_on_a_base_is_fitted_through_the_folder(tmp_path, fits, tasks):
    store = Models(tmp_path)
    based = [Walk(rate, base=Walk()) for rate in (0.3, 0.4)]
    assert store.missing(based[0], SETTING) == [Walk(), based[0]]
    found = [store.fit(learner, SOURCES, tasks) for learner in based]
    assert fits == [("Walk", 2)] * 3 and len(list(tmp_path.iterdir())) == 6
    base = store.fit(Walk(), SOURCES, tasks)
    assert len(fits) == 3 and store.missing(based[0], SETTING) == []
    for rate, outcomes in zip((0.3, 0.4), found, strict=True):
        for outcome, begun in zip(outcomes, base, strict=True):
            # A walk of six steps from where the base ended.
            assert outcome.base_seconds == begun.end.seconds > 0
            moved = np.std(outcome.end.model.dictionary - begun.end.model.dictionary)
            assert moved == pytest.approx(rate * 6**0.5, rel=0.2)


def test_a_base_may_run_on_the_host(tmp_path, fits, tasks):
    first, second = (fit_one(tmp_path, tasks, Walk(base=OnHost()), (0,)) for _ in range(2))
    assert fits == [("OnHost", 1), ("Walk", 1)]
    base = fit_one(tmp_path, tasks, OnHost())
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
    codes = (TopK(3)(outcome.end.model, signals) for outcome in (first, second))
    np.testing.assert_array_equal(*codes)


def test_an_early_stop_is_the_end_of_all_later_steps(tmp_path, tasks, fits):
    learner = Walk(until=3.0)
    for _ in range(2):
        outcome = fit_one(tmp_path, tasks, learner, (1, 2, 4, 5))
        assert outcome.end.step == 3
        assert outcome.at(5) is outcome.at(4) is outcome.end
        assert outcome.at(2).step == 2
    assert len(fits) == 1 and Models(tmp_path).missing(learner, SETTING, (1, 5, 6)) == []


def killed_after(folder, tasks, monkeypatch, saves, at):
    """The folder of a fit that ended at a save, as a killed process leaves it."""

    class Mortal(Checkpoint):
        count = 0

        def store(self, state, seconds, *, step=0):
            super().store(state, seconds, step=step)
            type(self).count += 1
            if self.count == saves:
                raise KilledError

    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "every", 0)
    with monkeypatch.context() as patched:
        patched.setattr(models, "Checkpoint", Mortal)
        with pytest.raises(KilledError):
            Models(folder).fit(Walk(), SOURCES[:1], tasks[:1], at)
    return pathlib.Path(str(Models(folder).folder(Walk(), SETTING)))


@pytest.mark.parametrize("saves", [1, 3, 5])
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch, tasks, expected, saves):
    folder = killed_after(tmp_path, tasks, monkeypatch, saves, (0, 2, 3))
    assert (folder / "state.safetensors").exists() and not (folder / "fit.json").exists()
    assert Models(tmp_path).missing(Walk(), SETTING) == [Walk()]
    loaded, load = [], Checkpoint.load

    def told(self, like):
        found = load(self, like)
        loaded.append(int(found[0][0]))
        return found

    monkeypatch.setattr(Checkpoint, "load", told)
    (outcome,) = Models(tmp_path).fit(Walk(), SOURCES[:1], tasks[:1], (0, 2, 3))
    assert loaded == [saves]
    assert all(same_bits(outcome.at(step).model, expected[step]) for step in (0, 2, 3, 6))
    assert files(folder) == along(0, 1, 2, 3, 4) + LAST


@pytest.mark.parametrize("damage", ["state", "snapshot", "no snapshot", "another fit's state"])
def test_a_killed_fit_with_damage_is_fitted_again(tmp_path, monkeypatch, tasks, expected, damage):
    folder = killed_after(tmp_path, tasks, monkeypatch, 4, (2, 3))
    path = folder / ("state.safetensors" if "state" in damage else along(2)[0])
    content = bytearray(path.read_bytes())
    if damage == "no snapshot":
        path.unlink()
    elif damage == "another fit's state":
        path.write_bytes(content.replace(b"walk-", b"talk-", 1))
    else:
        content[-9] ^= 0xFF
        path.write_bytes(content)
    for _ in range(2):
        outcome = fit_one(tmp_path, tasks, at=(2, 3))
        assert all(same_bits(outcome.at(step).model, expected[step]) for step in (2, 3, 6))
    assert not (folder / "state.safetensors").exists()


DAMAGE = {
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "foreign": lambda content: b"not what was written",
    "renamed": lambda content: content.replace(b"walk-", b"talk-"),
}


@pytest.mark.parametrize("name", [*LAST, *along(1)])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_fitted_again(tmp_path, tasks, expected, fits, damage, name):
    if name == "fit.json" and damage in ("flipped", "renamed"):
        return  # It has no numbers of a model.
    fit_one(tmp_path, tasks, at=(1,))
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    outcome = fit_one(tmp_path, tasks, at=(1,))
    assert len(fits) == 2
    assert same_bits(outcome.end.model, expected[6])
    assert same_bits(outcome.at(1).model, expected[1])
    fit_one(tmp_path, tasks, at=(1,))
    assert len(fits) == 2


def test_a_fit_goes_on_where_nothing_can_be_kept(tmp_path, tasks, expected, caplog):
    (tmp_path / "models").write_text("a file in its place")
    outcome = fit_one(tmp_path / "models", tasks)
    assert same_bits(outcome.end.model, expected[6])
    assert "going on without saving the fit" in caplog.text


def test_what_is_missing_is_told_by_names_alone(tmp_path, tasks, fits):
    store = Models(tmp_path)
    assert store.missing(Walk(), SETTING, (2,)) == [Walk()]
    fit_one(tmp_path, tasks, at=(2,))
    assert store.missing(Walk(), SETTING, (1, 2, 6, 9)) == []
    assert store.missing(Walk(), SETTING, (3,)) == [Walk()]
