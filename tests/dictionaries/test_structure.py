"""Two seeds agree more with families where there are some, and `learn` does what they say."""

import dataclasses

import numpy as np
import pytest

import sae_gap
from sae_gap import World
from sae_gap.dictionaries import learn as door
from sae_gap.dictionaries import structure, training
from sae_gap.dictionaries.structure import Structure, compare_seeds, with_families
from sae_gap.dictionaries.training import fit_signals
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.storage.trees import Checkpoint

WIDTH = 64


@pytest.fixture(scope="module")
def signals():
    trees = {"roots": 4, "branching": 3, "depth": 1, "orthogonal_steps": 30}
    world = World(num_latents=WIDTH, input_dim=32, num_samples=2_500, scored=10, **trees)
    return np.asarray(sae_gap.draw(world).train.signals)


@pytest.fixture
def told(monkeypatch):
    """What a trial says of any activations."""

    def say(plain, families):
        monkeypatch.setattr(
            door, "compare_seeds", lambda *_, **__: Structure(plain, families, 0.01)
        )

    return say


def learner(signals, width=WIDTH, visits=20.0):
    return OnlineDictionary.for_activations(width, 3, signals.shape[1], visits=visits)


def test_seeds_agree_more_with_families_where_there_are_some():
    """As many atoms as tell them well on any machine: of fewer it is a matter of rounding."""
    trees = {"roots": 8, "branching": 3, "depth": 1, "orthogonal_steps": 30}
    world = World(num_latents=128, input_dim=64, num_samples=4_000, scored=10, **trees)
    rows = np.asarray(sae_gap.draw(world).train.signals)
    found = compare_seeds(rows, learner(rows, width=128), 128, show_progress=False)
    assert found.has_families and 0.7 < found.plain < found.families - 0.02 < 1
    # White noise of as many atoms has none, which one of the seeds says by a difference above zero.
    noise = np.random.default_rng(2).normal(size=(4_000, 32))
    found = compare_seeds(noise, learner(noise), WIDTH, 2, show_progress=False)
    assert not found.has_families and found.families > found.plain
    assert str(found).startswith("no structure found")


def test_the_seeds_of_a_trial_follow_that_of_the_fit(signals, monkeypatch):
    def fit(learner, tasks, seeds, **_):
        raise RuntimeError(seeds)

    monkeypatch.setattr(structure, "fit", fit)
    with pytest.raises(RuntimeError, match=r"\[7, 8\]"):
        sae_gap.learn(signals, WIDTH, 3, structure="auto", seed=7)


def test_learn_goes_on_with_families_where_it_is_told_or_the_seeds_say_so(
    signals, told, tmp_path, monkeypatch
):
    train = sae_gap.open_activations(signals).split()[0]
    rows = train.take(np.arange(train.num_samples))
    families = with_families(learner(signals, visits=3.0))
    assert isinstance(families, Families) and families.base.incoherent
    expected = fit_signals(families, rows, WIDTH, 3, show_progress=False).model.dictionary
    options = {"seed": 3, "visits": 3.0, "outliers": "keep", "checkpoint": tmp_path}
    plain = sae_gap.learn(signals, WIDTH, 3, **options).atoms
    atoms = sae_gap.learn(signals, WIDTH, 3, structure="families", **options).atoms
    np.testing.assert_array_equal(atoms, expected)
    assert not np.array_equal(atoms, plain) and not list(tmp_path.iterdir())
    fit_rows = door.fit_rows

    def killed(learner, *args, **options):
        if isinstance(learner, Families):
            raise InterruptedError
        return fit_rows(learner, *args, **options)

    # What was saved before a kill is gone on from, and removed at the end.
    monkeypatch.setattr(Checkpoint.__init__, "__kwdefaults__", {"every": 0.0, "fit": ""})
    with monkeypatch.context() as patched:
        patched.setattr(door, "fit_rows", killed)
        with pytest.raises(InterruptedError):
            sae_gap.learn(signals, WIDTH, 3, structure="families", **options)
    assert (tmp_path / "learn.safetensors").exists()
    for after, same in ((0.8, atoms), (0.6, plain)):
        told(0.7, after)
        found = sae_gap.learn(signals, WIDTH, 3, structure="auto", **options)
        np.testing.assert_array_equal(found.atoms, same)
        assert found.structure == (0.7, after, 0.01)
    assert not list(tmp_path.iterdir())


def test_families_of_rows_beyond_memory_take_each_once_before_any_twice(signals, monkeypatch):
    monkeypatch.setattr("sae_gap.data.activations.rows.POOL", 1_000)
    rows, asked = sae_gap.open_activations(signals), []

    def stream(learner, source, *, num_samples, base, **options):
        size = learner.minibatches(num_samples, WIDTH)[1]
        asked.append([source(turn * size, size) for turn in range(num_samples // size)])

    monkeypatch.setattr(training, "fit_stream", stream)
    options = {"checkpoint": None, "show_progress": False}
    for visits in (3.0, 0.06):
        families = dataclasses.replace(with_families(learner(signals)), visits=visits)
        training.fit_rows(families, rows, WIDTH, 0, **options)
    whole, some = asked
    np.testing.assert_array_equal(np.concatenate(whole), signals)
    assert len(some) > 3
    found = np.unique(np.concatenate(some), axis=0)
    assert len(found) == len(np.unique(signals, axis=0))


def test_a_structure_that_is_unknown_is_named(signals):
    with pytest.raises(ValueError, match="structure must be one of"):
        sae_gap.learn(signals, WIDTH, 3, structure="trees")
