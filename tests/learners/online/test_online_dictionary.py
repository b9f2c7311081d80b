"""The online learner: its step against numpy, its schedule, which atoms restart, and that it
recovers the truth.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, Split, draw, match_atoms
from sae_gap.learners.online import online_dictionary
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.solvers.reweighted import atom_rows, pursue
from sae_gap.solvers.working_set import default_slots

# For what happens within a round.
SHORT = OnlineDictionary(num_steps=10, replace=False)


@eqx.filter_jit
def take_step(learner, data, state):
    return learner.step(data, state)


order = jax.jit(online_dictionary._order, static_argnums=(2, 3))


@eqx.filter_jit
def begin(learner, signals, num_latents):
    return learner.init(Split(signals), num_latents=num_latents, key=jax.random.key(0))


def run(learner, signals, num_latents=60, rounds=None):
    state = begin(learner, signals, num_latents)
    for _ in range(learner.num_steps if rounds is None else rounds):
        state = take_step(learner, Split(signals), state)
    return state


@pytest.fixture(scope="module")
def small():
    return draw(Setting(60, 3, 2_000))


def test_it_recovers_the_truth_through_noise_in_any_unit_and_tells_how_much_there_is():
    noisy = draw(Setting(60, 3, 2_000, noise_db=20))
    unit = 2.0**12
    state = run(OnlineDictionary(num_steps=60, visits=60), unit * noisy.train.signals)
    assert np.abs(match_atoms(state.dictionary, noisy.dictionary).cosine).mean() > 0.97
    np.testing.assert_allclose(jnp.linalg.norm(state.dictionary, axis=0), 1, rtol=1e-5)
    clean = noisy.train.codes @ noisy.dictionary.T
    noise = unit * float(jnp.std(noisy.train.signals - clean))
    assert float(state.noise) == pytest.approx(noise, rel=0.2) and not state.mean.any()


@eqx.filter_jit
def take_minibatch(learner, state, signals, progress):
    sums, left = online_dictionary._code(learner, state, signals, progress)
    return online_dictionary._advance(learner, state, sums, len(signals), progress), left


@pytest.fixture(scope="module")
def begun(small):
    """A state with a past, whose noise is small beside the floor."""
    state = begin(SHORT, small.train.signals, 60)
    past = np.full(60, np.float32(0.2)), *map(np.float32, (0.5, 0.02, 1.0))
    return eqx.tree_at(lambda s: (s.energy, s.forgotten, s.noise, s.amplitude), state, past)


@pytest.mark.parametrize(
    ("options", "progress", "first", "middle", "last"),
    [
        ({}, 0.3, 0.5, 0.1, 0.02),
        ({}, 0.95, 0.5, 0.1, 0.02),
        ({"visits": None}, 0.95, 0.5, 0.05, 0.01),
        ({"visits": None, "rates": (0.2, 0.1, 0.05)}, 0.95, 0.2, 0.1, 0.05),
    ],
)
def test_a_step_is_the_one_that_is_documented(small, begun, options, progress, first, middle, last):
    signals = small.train.signals[:40]
    new, left = take_minibatch(
        dataclasses.replace(SHORT, **options), begun, signals, np.float32(progress)
    )
    late = max(0, (progress - 0.85) / 0.15)
    rate = (
        middle * (last / middle) ** late if late else first * (middle / first) ** (progress / 0.85)
    )
    floor = 0.18 * (0.03 / 0.18) ** late
    assert floor > 2.5 * 0.02
    slots = default_slots(*begun.dictionary.shape)
    found = jax.jit(pursue, static_argnames="num_slots")(
        signals, atom_rows(begun.dictionary, slots), floor, floor, num_slots=slots
    )
    codes, atoms = np.zeros((40, 60)), np.asarray(begun.dictionary, float)
    np.add.at(codes, (np.arange(40)[:, None], np.asarray(found.places)), np.asarray(found.codes))
    residual = np.asarray(signals) - codes @ atoms.T
    # A CPU solves for the codes in double precision, `pursue` in single.
    np.testing.assert_allclose(left, residual, atol=5e-5)
    squares = (codes**2).sum(axis=0)
    mean = (0.7 * 0.2 + 0.3 * squares) / (1 - 0.35)
    moved = atoms + rate * (residual.T @ codes) / (mean + 0.01 * mean.mean())
    np.testing.assert_allclose(new.dictionary, moved / np.linalg.norm(moved, axis=0), atol=5e-5)
    assert float(new.noise) == pytest.approx(
        np.sqrt(0.9 * 0.02**2 + 0.1 * (residual**2).mean()), rel=1e-5
    )
    assert float(new.amplitude) == pytest.approx(
        0.9 + 0.1 * np.sqrt(squares.sum() / (codes != 0).sum()), rel=1e-5
    )


def test_a_round_goes_on_minibatch_by_minibatch(small, begun):
    begun = eqx.tree_at(lambda s: s.round, begun, np.int32(5))
    first, second = np.asarray(small.train.signals[:80]).reshape(2, 40, -1)
    whole = eqx.filter_jit(SHORT.round)(np.stack([first, second]), begun, 40)
    for late, same in ((0.55, True), (0.5, False)):
        state, _ = take_minibatch(SHORT, begun, first, np.float32(0.5))
        state, _ = take_minibatch(SHORT, state, second, np.float32(late))
        assert np.allclose(whole.dictionary, state.dictionary, atol=2e-5) is same
    assert int(whole.round) == 6


def test_wasted_atoms_restart_and_coherent_ones_are_decorrelated_in_every_third_round_of_their_time():
    """Between .4 and .9 of the fit, and between .3 and .97; a round ends at (round + 1) / 100."""
    learner, rounds = OnlineDictionary(num_steps=100), np.arange(100)
    for between, turn, wanted in (
        (online_dictionary.RESTARTS, 0, [*range(42, 89, 3)]),
        (online_dictionary.DECORRELATES, 1, [*range(31, 96, 3)]),
    ):
        due = online_dictionary._is_due(learner, rounds, between, turn)
        assert np.flatnonzero(due).tolist() == wanted


def test_a_fit_that_refines_and_no_longer_moves_is_done(begun):
    for round, change, done in ((9, 1e-6, True), (8, 1e-6, False), (9, 1e-4, False)):
        state = eqx.tree_at(
            lambda s: (s.round, s.change), begun, (np.int32(round), np.float32(change))
        )
        assert bool(SHORT.done(state)) == done


@pytest.mark.parametrize(("total", "num_samples"), [(7, 3), (6, 3), (3, 3), (2, 5)])
def test_samples_take_turns(total, num_samples):
    orders = [
        np.asarray(order(jax.random.key(turn), turn, num_samples, total))
        for turn in range(num_samples)
    ]
    counts = np.bincount(np.concatenate(orders), minlength=num_samples)
    assert all(len(order) == total for order in orders)
    if total < num_samples:
        assert (counts == total).all()
    else:
        assert all(np.ptp(np.bincount(order, minlength=num_samples)) <= 1 for order in orders)


@pytest.mark.parametrize(
    ("options", "num_samples", "num_latents", "expected"),
    [
        ({}, 2_500, 1_000, (20, 200)),
        ({}, 10**6, 1_000, (20, 200)),
        ({}, 2_500, 100, (100, 20)),
        ({"visits": None}, 10**5, 1_000, (5, 200)),
        ({"visits": None}, 150, 1_000, (1, 1)),
        ({"batch_size": 64}, 2_500, 1_000, (62, 64)),
    ],
)
def test_minibatches_of_a_round(options, num_samples, num_latents, expected):
    learner = OnlineDictionary(**options)
    assert learner.minibatches(num_samples, num_latents) == expected
    if learner.visits is None:
        assert learner.num_steps * expected[0] * expected[1] <= num_samples


@pytest.mark.parametrize(
    ("options", "code", "fresh"),
    [
        ({}, 0.3, [2]),
        ({"weak": 0.05}, 0.3, []),
        ({"visits": None}, 0.3, []),
        ({"visits": None}, 0.0, [2]),
        ({"replace": False}, 0.3, []),
    ],
)
def test_weak_atoms_restart_in_a_pool_and_in_a_stream_only_those_never_used(options, code, fresh):
    """Orthogonal atoms with codes of 1, the third with others, and a direction that none of them
    explains.
    """
    frame = np.eye(5, dtype="float32")
    codes = np.tile(np.diag([1, 1, code, 1]).astype("float32"), (8, 1))
    signals = np.concatenate([codes @ frame[:4], [0.2 * frame[4]]]).astype("float32")
    learner = OnlineDictionary(num_steps=10, rates=(1e-4, 1e-4, 1e-4), **options)
    state = begin(learner, signals, 4)
    past = frame[:, :4], np.int32(6), np.float32(1e-3), np.float32(1.0)
    state = eqx.tree_at(lambda s: (s.dictionary, s.round, s.noise, s.amplitude), state, past)
    new = eqx.filter_jit(learner.round)(signals[None], state, len(signals))
    assert np.flatnonzero(np.diagonal(new.dictionary) < 0.9).tolist() == fresh
    # One that restarts has the mean energy.
    mean = (3 + code**2) / 4 if fresh else code**2
    assert float(new.energy[2] / new.energy[0]) == pytest.approx(mean, abs=0.05)


@pytest.mark.parametrize(
    ("turn", "incoherent", "moves"), [(31, True, True), (32, True, False), (31, False, False)]
)
def test_coherent_atoms_are_decorrelated_where_that_is_due(turn, incoherent, moves):
    # Turned, since dimensions in which no atom is count as padding.
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0][:, :4]
    atoms = (
        frame @ np.array([[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0.9, 0, 0, 0.19**0.5]]).T
    )
    atoms = atoms.astype("float32")
    learner = OnlineDictionary(
        num_steps=100, rates=(1e-4, 1e-4, 1e-4), replace=False, incoherent=incoherent
    )
    state = begin(learner, atoms.T, 4)
    state = eqx.tree_at(lambda s: (s.dictionary, s.round), state, (atoms, np.int32(turn)))
    new = eqx.filter_jit(learner.round)(atoms.T[None], state, atoms.shape[1])
    assert (np.abs(np.asarray(new.dictionary - atoms)).max() > 0.1) == moves


def test_fewer_samples_than_latents_and_signals_of_zeros():
    learner = OnlineDictionary(num_steps=3, visits=4)
    rows = np.random.default_rng(0).normal(size=(10, 8)).astype("float32")
    for signals in (rows, 0 * rows):
        assert np.isfinite(run(learner, signals, 30).dictionary).all()


def test_centred_is_the_same_as_learning_from_centred_signals(small):
    learner = OnlineDictionary(visits=20)
    signals = small.train.signals + 3 * jnp.linspace(-1, 1, small.input_dim)
    mean = jnp.mean(signals, axis=0)
    whole = run(dataclasses.replace(learner, centred=True), signals, rounds=1)
    apart = run(learner, signals - mean, rounds=1)
    np.testing.assert_allclose(whole.dictionary, apart.dictionary, atol=1e-3)
    np.testing.assert_allclose(whole.noise, apart.noise, rtol=1e-4)
    np.testing.assert_allclose(learner.model(whole).bias, mean, rtol=1e-5, atol=1e-6)
    assert not np.any(learner.model(apart).bias)
