"""Streams: an array and a function give the same bits, a killed fit goes on, and a source's faults
are named.
"""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, World, draw, fit, fit_stream, match_atoms
from sae_gap.core.types import Model
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.storage.trees import Checkpoint
from sae_gap.study import stream

LEARNER = OnlineDictionary(num_steps=40)
SHORT = OnlineDictionary(num_steps=4, batch_size=50, num_rounds=1, replace=False)
OPTIONS = {"num_latents": 40, "key": 0}


@pytest.fixture(scope="module")
def task():
    # Some seeds leave an atom that is not found.
    return draw(Setting(40, 3, 20_000, stream=True, seed=2))


@pytest.fixture(scope="module")
def signals(task):
    return np.asarray(task.train.signals)


@pytest.fixture(scope="module")
def model(signals):
    return fit_stream(LEARNER, signals, **OPTIONS)


def test_a_stream_is_learned_from(task, model):
    assert np.abs(match_atoms(model.dictionary, task.dictionary).cosine).mean() > 0.99
    assert not model.bias.any()


def test_a_file_and_a_function_are_as_good_as_an_array_and_a_killed_fit_goes_on(
    tmp_path, signals, model, caplog
):
    np.save(tmp_path / "signals.npy", signals)
    mapped = np.load(tmp_path / "signals.npy", mmap_mode="r")
    asked = []

    def source(start, count):
        asked.append((start, count))
        if dies and start > len(signals) // 2:
            raise KeyboardInterrupt
        return mapped[start : start + count]

    dies, save = True, Checkpoint(tmp_path, "stream.safetensors", every=0)
    with pytest.raises(KeyboardInterrupt):
        fit_stream(LEARNER, source, num_samples=len(signals), checkpoint=save, **OPTIONS)
    assert asked == [(turn * asked[0][1], asked[0][1]) for turn in range(len(asked))]
    assert save.folder.exists(save.name)
    dies, asked = False, []
    with jax.log_compiles():
        resumed = fit_stream(LEARNER, source, num_samples=len(signals), checkpoint=save, **OPTIONS)
        jax.jit(lambda x: x + len(asked))(1.0)
    # The function above shows that compilations are told. Beside it small copies are all that is
    # compiled; a state on another device, or tied to one, would compile a round once more.
    assert "Compiling" in caplog.text
    assert "jit(_start)" not in caplog.text
    assert "jit(_round)" not in caplog.text
    assert min(asked[1:])[0] > len(signals) // 4
    np.testing.assert_array_equal(resumed.dictionary, model.dictionary)


def test_a_checkpoint_of_another_fit_is_not_taken(tmp_path, signals, caplog):
    """Its state has the same shapes, so that only the name of the fit tells them apart; each
    differs in one thing.
    """

    class Kept(Checkpoint):
        def named(self, fit):
            return Kept(self.folder, self.name, every=self.every, fit=fit)

        def discard(self):
            pass

    save, slower = Kept(tmp_path, every=0), dataclasses.replace(SHORT, settle=0.9)
    fits = [(SHORT, 0, 0), (SHORT, 200, 0), (SHORT, 200, 1), (slower, 200, 1)]
    for learner, start, seed in fits:
        caplog.clear()
        options = OPTIONS | {"key": jax.random.key(seed), "checkpoint": save}
        found = fit_stream(learner, signals[start : start + 200], **options)
        assert ("of another fit" in caplog.text) == ((learner, start, seed) != fits[0])
    again = fit_stream(slower, signals[200:400], **OPTIONS | {"key": jax.random.key(1)})
    np.testing.assert_array_equal(found.dictionary, again.dictionary)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_what_is_learned_is_of_the_default_type(signals, dtype):
    found = fit_stream(SHORT, signals[:200].astype(dtype), **OPTIONS).dictionary
    assert found.dtype == jnp.zeros(()).dtype


ROWS, AXES = np.zeros((100, 5)), (jax.sharding.AxisType.Auto,)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (lambda start, count: ROWS[:count], {}, "give num_samples"),
        (lambda start, count: ROWS[1:count], {"num_samples": 800}, "floating-point rows"),
        (lambda start, count: ROWS[:count].astype(int), {"num_samples": 800}, "floating-point"),
        (lambda start, count: ROWS[:count] + np.nan, {"num_samples": 800}, "NaN or an infinity"),
        (ROWS[:10], {}, "too few for 40 rounds"),
        (ROWS, {"num_samples": 101}, "only 100"),
        (ROWS, {"base": Model(ROWS[:5].T, ROWS[0])}, "has no base"),
        (ROWS, {"num_latents": 0}, "num_latents must be an integer"),
        (ROWS, {"mesh": jax.make_mesh((1,), ("data",), axis_types=AXES)}, "no axis"),
        (ROWS, {"mesh": jax.make_mesh((1,), ("samples",))}, "must have axes of type"),
    ],
)
def test_faults_are_named(source, options, words):
    with pytest.raises(ValueError, match=words):
        fit_stream(LEARNER, source, **(OPTIONS | options))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (None, "needs the model of its base"),
        (Model(np.ones((5, 40)), np.zeros(4)), "bias must be 5 finite numbers"),
        (Model(np.ones((5, 39)), np.zeros(5)), r"where \(5, 40\)"),
        (Model(np.ones((5, 40)), np.full(5, np.nan)), "bias must be 5 finite numbers"),
    ],
)
def test_a_base_that_does_not_fit_is_named(base, words):
    with pytest.raises(ValueError, match=words):
        fit_stream(Families(base=SHORT), ROWS, base=base, **OPTIONS)


def test_the_bias_of_a_centred_stream_is_the_mean_of_what_it_brought(signals):
    found = fit_stream(dataclasses.replace(SHORT, centred=True), signals[:200] + 3, **OPTIONS)
    np.testing.assert_allclose(found.bias, signals[:200].mean(axis=0) + 3, atol=1e-4)


def test_the_same_samples_in_another_order_are_another_stream():
    block = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 3)), jnp.float32)
    found = int(stream._fingerprint(block, 3))
    assert found != int(stream._fingerprint(block[::-1], 3))
    assert found != int(stream._fingerprint(block[:, :, ::-1], 3))
    # The rows that fill a minibatch up are none of its samples.
    assert found == int(stream._fingerprint(block.at[:, 3].set(0), 3))


def test_a_outliers_sample_counts_as_one_of_the_median_norm_of_the_first_round(signals):
    given, tamed = signals[:400].copy(), signals[:400].copy()
    first = given[: 400 // SHORT.num_steps]
    for row in (7, 390):
        given[row] *= 300
        tamed[row] *= np.median(np.linalg.norm(first, axis=1)) / np.linalg.norm(tamed[row])
    found, expected = (fit_stream(SHORT, rows, **OPTIONS) for rows in (given, tamed))
    np.testing.assert_allclose(found.dictionary, expected.dictionary, atol=1e-4)


def test_a_round_holds_a_core(signals, monkeypatch):
    """Until its results are there, so that no more rounds than cores call back at once."""
    held, run = threading.BoundedSemaphore(1), stream._round

    def ran(*args):
        # Nobody else gets one meanwhile.
        assert not held.acquire(blocking=False)
        return run(*args)

    monkeypatch.setattr(stream, "LOOPS", held)
    monkeypatch.setattr(stream, "_round", ran)
    fit_stream(SHORT, signals[:200], **OPTIONS)
    assert held.acquire(blocking=False)


def test_families_of_a_stream_are_those_of_a_pool(tmp_path):
    """Rounds take the samples that follow, the first again after the last; a killed fit goes on
    from its own base alone.
    """
    task = draw(World(num_latents=32, input_dim=24, roots=4, depth=1, num_samples=3_100, seed=4))
    signals = np.asarray(task.train.signals)
    learner = Families(base=SHORT, num_steps=8, visits=0.3, num_slots=8)
    size = learner.minibatches(len(signals), 32)[1]
    assert len(signals) % size and len(signals) < 8 * size
    atoms = np.asarray(task.dictionary) + 0.1 * np.random.default_rng(0).standard_normal((24, 32))
    base = Model(jnp.asarray(atoms, jnp.float32), jnp.full(24, 0.1))
    wanted = fit(learner, [task], [0], bases=[base], show_progress=False)[0].end.model
    save = Checkpoint(tmp_path, every=0)
    options = {"num_latents": 32, "key": 0, "num_samples": len(signals), "checkpoint": save}

    def source(start, count):
        asked.append(count)
        if dies and sum(asked) > 6 * size:
            raise KeyboardInterrupt
        return signals[start : start + count]

    dies, asked = True, []
    with pytest.raises(KeyboardInterrupt):
        fit_stream(learner, source, base=base, **options)
    dies, asked = False, []
    found = fit_stream(learner, source, base=base, **options)
    assert sum(asked) < 8 * size
    np.testing.assert_allclose(found.dictionary, wanted.dictionary, atol=1e-4)
    np.testing.assert_array_equal(found.bias, base.bias)
    moved = dataclasses.replace(base, dictionary=base.dictionary[:, ::-1])
    asked = []
    fit_stream(learner, source, base=moved, **options)
    assert sum(asked) == 8 * size
