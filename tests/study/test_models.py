"""A fit is done once, whoever asks; what is damaged or foreign is fitted again, and a killed fit
goes on to the same bits.
"""

import json
from contextlib import suppress
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from equinox import field
from jax.random import key_data
from numpy.random import default_rng
from numpy.testing import assert_array_equal
from pytest import approx, fixture, mark

from sae_gap import Models, Setting
from sae_gap.core import Model, identity
from sae_gap.data import HeldOut, open_activations
from sae_gap.encoders import TopK
from sae_gap.learners import HostLearner, Oracle, SparseAutoencoder
from sae_gap.storage import Checkpoint
from sae_gap.study import models
from tests.study.test_fitting import KilledError, Mortal, Walk, same_bits

SETTING = Setting(20, 3, 200)
LAST = ["fit.json", "fit.safetensors"]


class OnHost(HostLearner):
    """One in Python."""

    num_steps: int = field(static=True, default=3, kw_only=True)

    def learn(self, data, *, num_latents, key, base=None):
        atoms = jax.random.normal(key, (data.signals.shape[1], num_latents))
        return Model(atoms, jnp.zeros(data.signals.shape[1]))


@fixture
def fits(monkeypatch):
    """The learners with steps that are fitted."""
    made = []
    fit = models.fit

    def counting(learner, *rest, **options):
        made.extend([learner] * bool(learner.num_steps))
        return fit(learner, *rest, **options)

    monkeypatch.setattr(models, "fit", counting)
    return made


def fit_one(folder, task, learner=None, at=()):
    (outcome,) = Models(folder).fit(learner or Walk(), [SETTING], [task], at)
    return outcome


@fixture(scope="module")
def expected(task):
    """The models of the walk at steps 0 to 6, fitted without a folder."""
    outcome = fit_one(None, task, at=range(6))
    return [outcome.at(step).model for step in range(7)]


def is_as_expected(outcome, expected, *steps):
    return all(
        same_bits(outcome.at(step).model, expected[step]) for step in (*steps, 6)
    )


def files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def along(*steps):
    return [f"{step:06d}.safetensors" for step in steps]


def test_a_fit_lies_in_a_folder_and_is_read_back(tmp_path, task, expected, fits):
    store = Models(tmp_path)
    assert store.missing(Walk(), SETTING, (2,)) == [Walk()]
    outcome = fit_one(tmp_path, task, at=(2, 6))
    (folder,) = tmp_path.iterdir()
    assert str(folder) == str(store.folder(Walk(), SETTING)) and folder.name.startswith(
        "walk-"
    )
    assert files(folder) == along(1, 2, 4) + LAST
    said = json.loads((folder / "fit.json").read_text())
    assert (said["step"], said["learner"]["class"]) == (6, "tests.Walk")
    assert said["source"]["num_latents"] == 20
    again = fit_one(tmp_path, task, at=(2, 4, 6))
    assert fits == [Walk()] and store.missing(Walk(), SETTING, (1, 2, 6, 9)) == []
    assert is_as_expected(outcome, expected, 2) and is_as_expected(
        again, expected, 2, 4
    )
    assert again.at(6) is again.at(None) is again.end and again.at(2).step == 2
    assert again.end.seconds == outcome.end.seconds
    assert again.compile_seconds == outcome.compile_seconds > 0
    # Where a model that is asked for along the fit was not kept, the fit is made again.
    assert store.missing(Walk(), SETTING, (3,)) == [Walk()]
    assert (
        is_as_expected(fit_one(tmp_path, task, at=(3,)), expected, 3) and len(fits) == 2
    )


def test_nothing_is_kept_of_who_takes_no_step(tmp_path, task):
    fit_one(tmp_path, task, Oracle())
    assert files(tmp_path) == [] == Models(tmp_path).missing(Oracle(), SETTING)
    assert Models().folder(Walk(), SETTING) is None


NAMED = [
    Walk(0.2),
    Walk(0.3),
    Walk(num_steps=5),
    Walk(base=Oracle()),
    OnHost(),
    Setting(20, 3, 200, seed=1),
    Setting(20, 3, 202),
    Setting(20, 3, 200, noise_db=20.0),
]


def test_what_decides_a_model_and_nothing_else_is_in_its_name(monkeypatch):
    def name(learner=None, source=SETTING):
        return str(Models("x").folder(learner or Walk(), source))

    names = [name()]
    names += [
        name(source=one) if isinstance(one, Setting) else name(one) for one in NAMED
    ]
    with jax.enable_x64(True):
        names.append(name())
    for place, attribute, value in (
        (Walk, "version", 2),
        (identity, "NUMERICS", identity.NUMERICS + 1),
        (jax, "default_backend", lambda: "tpu"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, attribute, value, raising=False)
            names.append(name())
    assert len(set(names)) == len(names) == 5 + len(NAMED)
    monkeypatch.setattr(Walk, "__module__", "tests.elsewhere")
    assert (
        name(Walk(np.float32(2))) == name(Walk(2)) == name(Walk(2.0))
        and name() == names[0]
    )


def test_of_activations_no_model_along_a_fit_is_kept_that_nobody_asked_for(tmp_path):
    rows = default_rng(0).normal(size=(60, 5)).astype(np.float32)
    source = HeldOut(
        open_activations(rows, documents=np.repeat(np.arange(6), 10)), 8, 2
    )
    (fit,) = Models(tmp_path).fit(Walk(), [source], [source.task()], (2,))
    (folder,) = tmp_path.iterdir()
    assert files(folder) == along(2) + LAST and [*fit.along] == [2]


def test_seeds_and_learners_have_keys_of_their_own(task):
    def key(learner, seed):
        there = replace(task, seed=seed)
        wanted = models._Kept(learner, SETTING, there, None, None, True)
        return str(key_data(wanted.key))

    assert (
        len({key(learner, seed) for learner in (Walk(), OnHost()) for seed in (0, 1)})
        == 4
    )


def test_bases_are_fitted_first_through_the_folder_and_their_seconds_count(
    tmp_path, fits, task
):
    first = OnHost()
    second = Walk(base=first)
    third = Walk(0.3, base=second)
    store = Models(tmp_path)
    assert store.missing(third, SETTING) == [first, second, third]
    for _ in range(2):
        outcome = fit_one(tmp_path, task, third, (0,))
        below, lowest = (fit_one(tmp_path, task, one) for one in (second, first))
        assert fits == [first, second, third] and store.missing(third, SETTING) == []
        # The seconds of a base of a base.
        assert outcome.base_seconds == below.end.seconds + lowest.end.seconds > 0
        assert below.base_seconds == lowest.end.seconds and lowest.base_seconds == 0
        begun = outcome.at(0).model.dictionary
        assert_array_equal(begun, below.end.model.dictionary)
        # A walk of six steps from where the base ended.
        moved = np.std(outcome.end.model.dictionary - begun)
        assert moved == approx(0.3 * 6**0.5, rel=0.2)


def test_the_encoder_of_a_model_comes_back_with_it(tmp_path, task):
    for _ in range(2):
        outcome = fit_one(tmp_path, task, SparseAutoencoder(TopK(3), num_steps=2), (1,))
        assert outcome.end.model.encode == outcome.at(1).model.encode == TopK(3)


def test_an_early_stop_is_the_end_of_all_later_steps(tmp_path, task, fits):
    learner = Walk(until=3.0)
    for _ in range(2):
        outcome = fit_one(tmp_path, task, learner, (1, 2, 4))
        assert outcome.end.step == 3 and [*outcome.along] == [1, 2]
        assert outcome.at(4) is outcome.at(3) is outcome.end
    assert (
        fits == [learner]
        and Models(tmp_path).missing(learner, SETTING, (1, 3, 6)) == []
    )


DAMAGE = {
    "flipped": lambda content: (
        content[:-9] + bytes([content[-9] ^ 0xFF]) + content[-8:]
    ),
    "cut": lambda content: content[: len(content) // 2],
    "renamed": lambda content: content.replace(b"walk-", b"talk-"),
    # As if it were copied from another step.
    "of another step": lambda content: content.replace(
        b'\\"step\\": 2', b'\\"step\\": 1'
    ),
}


STATE = "state.safetensors"


@mark.parametrize(
    ("killed", "name", "damage", "goes_on_from"),
    [
        (True, STATE, None, 3),
        *((True, STATE, damage, None) for damage in ("flipped", "renamed")),
        *((True, along(2)[0], damage, 3) for damage in ("flipped", "removed")),
        *((False, name, "cut", None) for name in LAST),
        *(
            (False, along(2)[0], damage, None)
            for damage in ("flipped", "renamed", "of another step")
        ),
    ],
)
def test_a_killed_fit_goes_on_and_what_is_damaged_is_made_again(
    tmp_path, monkeypatch, task, expected, fits, killed, name, damage, goes_on_from
):
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "every", 0)
    with monkeypatch.context() as patched, suppress(KilledError):
        patched.setattr(models, "Checkpoint", Mortal if killed else Checkpoint)
        fit_one(tmp_path, task, at=(2, 3))
    (folder,) = tmp_path.iterdir()
    assert files(folder) == (
        [*along(1, 2), STATE] if killed else along(1, 2, 3, 4) + LAST
    )
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "removed":
        (folder / name).write_bytes(DAMAGE[damage](content) if damage else content)
    taken = []
    load = Checkpoint.load

    def loading(self, like):
        found = load(self, like)
        taken.append(found and int(found[0][0]))
        return found

    monkeypatch.setattr(Checkpoint, "load", loading)
    for _ in range(2):
        assert is_as_expected(fit_one(tmp_path, task, at=(2, 3)), expected, 2, 3)
    # One that went on before a model was lost is made once more.
    assert taken[0] == goes_on_from and len(fits) == 2 + (
        goes_on_from is not None and name != STATE
    )
    assert files(folder) == along(1, 2, 3, 4) + LAST


def test_a_fit_goes_on_where_nothing_can_be_kept(tmp_path, task, expected, caplog):
    (tmp_path / "models").write_text("a file in its place")
    assert is_as_expected(fit_one(tmp_path / "models", task), expected)
    assert "going on without saving the fit" in caplog.text
