"""Streams: an array and a function give the same bits, a killed fit goes on, and a source's faults
are named.
"""

import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import fixture, mark, raises

from sae_gap import Setting, World, draw, fit, fit_stream, match_atoms
from sae_gap.core import Model, identity
from sae_gap.learners import Families, OnlineDictionary
from sae_gap.storage import Checkpoint
from sae_gap.study import stream

LEARNER = OnlineDictionary(num_steps=40)
SHORT = OnlineDictionary(num_steps=4, batch_size=50, num_rounds=1, replace=False)
OPTIONS = {"num_latents": 40, "key": 0}


@fixture(scope="module")
def task():
    # Some seeds leave an atom that is not found.
    return draw(Setting(40, 3, 20_000, stream=True, seed=2))


@fixture(scope="module")
def signals(task):
    return np.asarray(task.train.signals)


def dying_at(signals, last, asked):
    """A source that is killed beyond a sample, and goes on when it is asked again."""

    def source(start, count):
        asked.append((start, count))
        if start > last[0]:
            last[0] = len(signals)
            raise KeyboardInterrupt
        return signals[start : start + count]

    return source


def test_a_stream_is_learned_from_and_a_killed_fit_goes_on(
    tmp_path, task, signals, caplog
):
    model = fit_stream(LEARNER, signals, **OPTIONS)
    assert np.abs(match_atoms(model.dictionary, task.dictionary).cosine).mean() > 0.99
    assert not model.bias.any()
    np.save(tmp_path / "signals.npy", signals)
    asked = []
    source = dying_at(
        np.load(tmp_path / "signals.npy", mmap_mode="r"), [len(signals) // 2], asked
    )
    save = Checkpoint(tmp_path, "stream.safetensors", every=0)
    options = OPTIONS | {"num_samples": len(signals), "checkpoint": save}
    with raises(KeyboardInterrupt):
        fit_stream(LEARNER, source, **options)
    assert asked == [(turn * asked[0][1], asked[0][1]) for turn in range(len(asked))]
    asked.clear()
    with jax.log_compiles():
        resumed = fit_stream(LEARNER, source, **options)
        jax.jit(lambda x: x + len(asked))(1.0)
    # The function above shows that compilations are told. Beside it small copies are all that is
    # compiled; a state on another device, or tied to one, would compile a round once more.
    assert "Compiling" in caplog.text
    assert "jit(_start)" not in caplog.text and "jit(_round)" not in caplog.text
    assert min(asked[1:])[0] > len(signals) // 4
    assert_array_equal(resumed.dictionary, model.dictionary)


def test_a_checkpoint_of_another_fit_is_not_taken(
    tmp_path, signals, caplog, monkeypatch
):
    """Its state has the same shapes, so that only the name of the fit tells them apart; each
    differs in one thing.
    """
    monkeypatch.setattr(Checkpoint, "discard", lambda self: None)
    save = Checkpoint(tmp_path, every=0)
    slower = replace(SHORT, margin=3.0)
    rows = signals[:200]
    others = signals[200:400]
    # The same numbers in another order, within the first round, are another stream.
    orders = rows, rows[np.r_[1, 0, 2:200]], rows[:, ::-1]
    fits = [*((SHORT, given, 0) for given in (*orders, others)), (SHORT, others, 1)]
    for place, (learner, given, seed) in enumerate([*fits, (slower, others, 1)]):
        found = fit_stream(
            learner, given, **OPTIONS | {"key": seed, "checkpoint": save}
        )
        assert caplog.text.count("of another fit") == place
    again = fit_stream(slower, others, **OPTIONS | {"key": 1})
    assert_array_equal(found.dictionary, again.dictionary)
    for place, (owner, name) in enumerate(
        [(OnlineDictionary, "version"), (identity, "NUMERICS")]
    ):
        monkeypatch.setattr(owner, name, 7, raising=False)
        fit_stream(slower, others, **OPTIONS | {"key": 1, "checkpoint": save})
        assert caplog.text.count("of another fit") == len(fits) + 1 + place


ROWS = np.zeros((100, 5))
AXES = (jax.sharding.AxisType.Auto,)
FAMILIES = Families(base=SHORT)


def gives(rows, **options):
    return LEARNER, lambda start, count: rows(count), {"num_samples": 800} | options


@mark.parametrize(
    ("learner", "source", "options", "words"),
    [
        (*gives(lambda count: ROWS[:count], num_samples=None), "give num_samples"),
        (*gives(lambda count: ROWS[1:count]), "rows for"),
        (*gives(lambda count: ROWS[:count] + np.nan), "must be finite"),
        (LEARNER, ROWS[:39], {}, "too few for 40 rounds"),
        (LEARNER, ROWS, {"num_samples": 101}, "at most 100"),
        (LEARNER, ROWS, {"base": Model(ROWS[:5].T, ROWS[0])}, "has no base"),
        (
            LEARNER,
            ROWS,
            {"mesh": jax.make_mesh((1,), ("data",), axis_types=AXES)},
            "no axis",
        ),
        (FAMILIES, ROWS, {}, "needs the model of its base"),
        (
            FAMILIES,
            ROWS,
            {"base": Model(np.ones((5, 40)), np.zeros(4))},
            "bias must be",
        ),
        (
            FAMILIES,
            ROWS,
            {"base": Model(np.ones((5, 39)), np.zeros(5))},
            r"where \(5, 40\)",
        ),
    ],
)
def test_faults_are_named(learner, source, options, words):
    with raises(ValueError, match=words):
        fit_stream(learner, source, **(OPTIONS | options))


@mark.parametrize("dtype", ["float16", "float64"])
def test_the_bias_of_a_centred_stream_is_the_mean_of_what_it_brought(signals, dtype):
    learner = replace(SHORT, centred=True)
    given = signals[:200].astype(dtype) + 3
    found = fit_stream(learner, given, **OPTIONS)
    assert found.dictionary.dtype == jnp.zeros(()).dtype
    assert_allclose(found.bias, given.mean(axis=0, dtype=float), atol=1e-4)


def test_an_outlier_counts_as_a_sample_of_the_median_norm_of_the_first_round(signals):
    given = signals[:400].copy()
    tamed = signals[:400].copy()
    first = given[: 400 // SHORT.num_steps]
    for row in (7, 390):
        given[row] *= 300
        tamed[row] *= np.median(norm(first, axis=1)) / norm(tamed[row])
    found, expected = (fit_stream(SHORT, rows, **OPTIONS) for rows in (given, tamed))
    assert_allclose(found.dictionary, expected.dictionary, atol=1e-4)


def test_a_round_holds_a_core(signals, monkeypatch):
    """Until its results are there, so that no more rounds than cores call back at once."""
    held = threading.BoundedSemaphore(1)
    run = stream._round

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
    task = draw(
        World(num_latents=32, input_dim=24, roots=4, depth=1, num_samples=3_100, seed=4)
    )
    signals = np.asarray(task.train.signals)
    learner = Families(base=SHORT, num_steps=8, visits=0.3, num_slots=8)
    size = learner.minibatches(len(signals), 32)[1]
    assert len(signals) % size and len(signals) < 8 * size
    atoms = np.asarray(task.dictionary) + 0.1 * default_rng(0).standard_normal((24, 32))
    base = Model(jnp.asarray(atoms, jnp.float32), jnp.full(24, 0.1))
    wanted = fit(learner, [task], [0], bases=[base], show_progress=False)[0].end.model
    asked = []
    save = Checkpoint(tmp_path, every=0)
    options = {
        "num_latents": 32,
        "key": 0,
        "num_samples": len(signals),
        "checkpoint": save,
    }
    source = dying_at(signals, [len(signals) // 2], asked)
    with raises(KeyboardInterrupt):
        fit_stream(learner, source, base=base, **options)
    asked.clear()
    found = fit_stream(learner, source, base=base, **options)
    assert sum(count for _, count in asked) < 8 * size
    assert_allclose(found.dictionary, wanted.dictionary, atol=1e-4)
    assert_array_equal(found.bias, base.bias)
    moved = replace(base, dictionary=base.dictionary[:, ::-1])
    asked.clear()
    fit_stream(learner, source, base=moved, **options)
    assert sum(count for _, count in asked) == 8 * size
