"""Streams: an array and a function give the same bits, a killed fit goes on, and what a source does wrong is said."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sae_gap.storage.checkpoints import Checkpoint

from sae_gap import Setting, draw, fit_stream, match_atoms
from sae_gap.learners.online import stream
from sae_gap.learners.online.online_dictionary import OnlineDictionary

LEARNER = OnlineDictionary(num_steps=40)
OPTIONS = {"num_latents": 40, "key": jax.random.key(0)}


@pytest.fixture(scope="module")
def task():
    # Some seeds leave an atom that is not found.
    return draw(Setting(40, 3, 20_000, stream=True, seed=4))


@pytest.fixture(scope="module")
def signals(task):
    return np.asarray(task.train.signals)


@pytest.fixture(scope="module")
def model(signals):
    return fit_stream(LEARNER, signals, **OPTIONS)


@pytest.mark.optimised
def test_a_stream_is_learned_from(task, model):
    assert np.abs(match_atoms(model.dictionary, task.dictionary).cosine).mean() > 0.99


@pytest.mark.optimised
def test_a_file_and_a_function_are_as_good_as_an_array(tmp_path, signals, model):
    np.save(tmp_path / "signals.npy", signals)
    asked = []

    def source(start, count):
        asked.append((start, count))
        return signals[start : start + count]

    mapped = fit_stream(LEARNER, np.load(tmp_path / "signals.npy", mmap_mode="r"), **OPTIONS)
    called = fit_stream(LEARNER, source, num_samples=len(signals), **OPTIONS)
    for other in (mapped, called):
        np.testing.assert_array_equal(other.dictionary, model.dictionary)
    assert asked == [(turn * asked[0][1], asked[0][1]) for turn in range(40)]


@pytest.mark.optimised
def test_a_killed_fit_goes_on_and_compiles_nothing_anew(tmp_path, signals, model, caplog):
    save = Checkpoint(tmp_path / "stream.npz", every=0)

    def dying(start, count):
        if start > len(signals) // 2:
            raise KeyboardInterrupt
        return signals[start : start + count]

    with pytest.raises(KeyboardInterrupt):
        fit_stream(LEARNER, dying, num_samples=len(signals), checkpoint=save, **OPTIONS)
    starts = []

    def source(start, count):
        starts.append(start)
        return signals[start : start + count]

    assert save.path.exists()
    with jax.log_compiles():
        resumed = fit_stream(LEARNER, source, num_samples=len(signals), checkpoint=save, **OPTIONS)
    # Small copies are all that is compiled; a state on another device, or tied to one, would compile a round once more.
    assert "Compiling" in caplog.text and "jit(_start)" not in caplog.text and "jit(_round)" not in caplog.text
    assert min(starts[1:]) > len(signals) // 4
    np.testing.assert_array_equal(resumed.dictionary, model.dictionary)
    assert not save.path.exists()


def test_a_checkpoint_of_another_fit_is_not_taken(tmp_path, signals, caplog):
    """Its state has the same shapes, so that only the name of the fit tells them apart."""

    class Kept(Checkpoint):
        def discard(self):
            pass

    save = Kept(tmp_path / "a.npz", every=0)
    learner = OnlineDictionary(num_steps=3)
    options = OPTIONS | {"num_samples": 900}
    other = fit_stream(learner, signals[1000:], checkpoint=save, **options)
    again = fit_stream(learner, signals, checkpoint=save, **options)
    assert "of another fit" in caplog.text
    np.testing.assert_array_equal(again.dictionary, fit_stream(learner, signals, **options).dictionary)
    assert not np.array_equal(other.dictionary, again.dictionary)
    # Each differs in one thing from the fit before.
    changed = dataclasses.replace(learner, settle=0.9)
    for seed in (0, 1):
        caplog.clear()
        fit_stream(changed, signals, checkpoint=save, **options | {"key": jax.random.key(seed)})
        assert "of another fit" in caplog.text


def test_half_precision_is_widened(signals):
    half = fit_stream(OnlineDictionary(num_steps=3), signals[:900].astype("float16"), **OPTIONS)
    assert half.dictionary.dtype == jnp.zeros(()).dtype


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda start, count: np.zeros((count, 5)), {}, "give num_samples"),
        (lambda start, count: np.zeros((count - 1, 5)), {"num_samples": 800}, "floating-point rows"),
        (lambda start, count: np.zeros((count, 5), int), {"num_samples": 800}, "floating-point rows"),
        (lambda start, count: np.full((count, 5), np.nan), {"num_samples": 800}, "NaN or an infinity"),
        (np.zeros((10, 5)), {}, "too few for 40 rounds"),
        (np.zeros((100, 5)), {"num_samples": 101}, "only 100"),
        (np.zeros((100, 5)), {"num_latents": 0}, "num_latents must be a positive integer"),
        (np.zeros((100, 5)), {"mesh": jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))}, "no axis"),
        (np.zeros((100, 5)), {"mesh": jax.make_mesh((1,), ("samples",))}, "must have axes of type"),
    ],
)
def test_faults_are_said(source, options, message):
    with pytest.raises(ValueError, match=message):
        fit_stream(LEARNER, source, **(OPTIONS | options))


def test_double_precision_is_not_forced_on_single(signals):
    assert (
        fit_stream(OnlineDictionary(num_steps=2), signals[:400].astype(float), **OPTIONS).dictionary.dtype
        == jnp.zeros(()).dtype
    )


@pytest.mark.optimised
def test_centred_its_bias_is_the_mean_of_what_has_come(signals):
    learner = OnlineDictionary(num_steps=7, centred=True)
    told = signals[:9_000] + np.float32(5)
    seen = []

    def source(start, count):
        seen.append(told[start : start + count])
        return seen[-1]

    model = fit_stream(learner, source, num_samples=len(told), **OPTIONS)
    assert len(seen) == 7
    np.testing.assert_allclose(model.bias, np.concatenate(seen).mean(axis=0), rtol=1e-4)
    assert not np.any(fit_stream(dataclasses.replace(learner, centred=False), told, **OPTIONS).bias)


def test_the_bias_of_a_centred_stream_is_the_mean_of_what_it_brought(signals):
    learner = OnlineDictionary(num_steps=4, batch_size=50, centred=True, num_rounds=1, replace=False)
    found = fit_stream(learner, signals[:200] + 3, **OPTIONS)
    np.testing.assert_allclose(found.bias, signals[:200].mean(axis=0) + 3, atol=1e-4)


def test_the_same_samples_in_another_order_are_another_stream():
    block = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 3)), jnp.float32)
    found = np.asarray(stream._fingerprint(block, 3))
    assert (found != stream._fingerprint(block[::-1], 3)).all()
    # What fills a minibatch up is none of its samples.
    np.testing.assert_array_equal(found, stream._fingerprint(block.at[:, 3].set(0), 3))
