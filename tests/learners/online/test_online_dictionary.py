"""The online learner: its step against numpy, its schedule, which atoms restart, that it recovers
the truth, and a dictionary cut to the atoms that carry the most energy.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark

from sae_gap import Setting, Split, draw, match_atoms
from sae_gap.core import Model
from sae_gap.learners import OnlineDictionary, Oracle, Pruned
from sae_gap.learners.online import gradient_sums, online_dictionary, renewal
from sae_gap.solvers import default_slots
from tests.solvers.test_reweighted import dense, pursue

# For what happens within a round.
SHORT = OnlineDictionary(num_steps=10, replace=False)
# One that hardly moves an atom.
COLD = OnlineDictionary(num_steps=100, rates=(1e-4, 1e-4, 1e-4))


@eqx.filter_jit
def take_step(learner, signals, state):
    return learner.step(Split(signals), state)


@eqx.filter_jit
def take_minibatch(learner, state, signals, progress):
    state, _, left = online_dictionary._advance(
        learner, state, signals, len(signals), progress, axes=()
    )
    return state, left


@eqx.filter_jit
def take_round(learner, minibatches, state):
    return learner.round(minibatches, state, minibatches.shape[1])


def begin(learner, signals, num_latents=60, **past):
    """A state, some numbers of which are those of rounds before."""
    state = learner.init(Split(signals), num_latents=num_latents, key=jax.random.key(0))
    like = {
        name: jnp.asarray(given, getattr(state, name).dtype)
        for name, given in past.items()
    }
    return replace(state, **like)


def run(learner, signals, rounds, num_latents=60):
    state = begin(learner, signals, num_latents)
    for _ in range(rounds):
        state = take_step(learner, signals, state)
    return state


@fixture(scope="module")
def noisy():
    return draw(Setting(60, 3, 2_000, noise_db=20))


@fixture(scope="module")
def begun(noisy):
    """A state with a past, whose noise is small beside the floor."""
    past = {"energy": np.full(60, 0.2), "forgotten": 0.5, "noise": 0.02, "amplitude": 1}
    return begin(SHORT, noisy.train.signals, **past)


def test_it_recovers_the_truth_through_noise_in_any_unit_and_tells_how_much_there_is(
    noisy,
):
    unit = 2.0**12
    state = run(
        OnlineDictionary(num_steps=60, visits=60), unit * noisy.train.signals, 60
    )
    assert abs(match_atoms(state.dictionary, noisy.dictionary).cosine).mean() > 0.97
    assert_allclose(jnp.linalg.norm(state.dictionary, axis=0), 1, rtol=1e-5)
    noise = unit * float(
        jnp.std(noisy.train.signals - noisy.train.codes @ noisy.dictionary.T)
    )
    assert float(state.noise) == approx(noise, rel=0.2) and not state.mean.any()


@mark.parametrize(
    ("options", "progress", "rates"),
    [
        ({}, 0.3, (0.5, 0.1, 0.02)),
        ({"visits": None}, 0.95, (0.5, 0.05, 0.01)),
        ({"visits": None, "rates": (0.2, 0.1, 0.05)}, 0.95, (0.2, 0.1, 0.05)),
    ],
)
def test_a_step_is_the_one_that_is_documented(noisy, begun, options, progress, rates):
    signals = noisy.train.signals[:40]
    learner = replace(SHORT, **options)
    new, left = take_minibatch(learner, begun, signals, np.float32(progress))
    late = max(0, (progress - 0.85) / 0.15)
    first, middle, last = rates
    early = first * (middle / first) ** (progress / 0.85)
    rate = middle * (last / middle) ** late if late else early
    floor = 0.18 * (0.03 / 0.18) ** late
    assert floor > 2.5 * 0.02
    slots = default_slots(*begun.dictionary.shape)
    codes = dense(pursue(signals, begun.dictionary, floor, floor, num_slots=slots), 60)
    atoms = np.asarray(begun.dictionary, float)
    residual = np.asarray(signals) - codes @ atoms.T
    # A CPU solves for the codes in double precision, `pursue` in single.
    assert_allclose(left, residual, atol=5e-5)
    squares = (codes**2).sum(axis=0)
    mean = (0.7 * 0.2 + 0.3 * squares) / (1 - 0.35)
    moved = atoms + rate * (residual.T @ codes) / (mean + 0.01 * mean.mean())
    assert_allclose(new.dictionary, moved / norm(moved, axis=0), atol=5e-5)
    scales = (
        np.sqrt(0.9 * 0.02**2 + 0.1 * (residual**2).mean()),
        0.9 + 0.1 * np.sqrt(squares.sum() / (codes != 0).sum()),
    )
    assert_allclose([new.noise, new.amplitude], scales, rtol=1e-5)


def test_atoms_restart_and_are_decorrelated_in_every_third_round_of_their_time():
    """Between .4 and .9 of the fit, and between .3 and .97; a round ends at (round + 1) / 100."""
    for between, turn, wanted in (
        (online_dictionary.RESTARTS, 0, [*range(42, 89, 3)]),
        (online_dictionary.DECORRELATES, 1, [*range(31, 96, 3)]),
    ):
        due = online_dictionary._is_due(COLD, np.arange(100), between, turn)
        assert np.flatnonzero(due).tolist() == wanted


@mark.parametrize(
    ("round", "change", "done"), [(9, 1e-6, 1), (8, 1e-6, 0), (9, 1e-4, 0)]
)
def test_a_fit_that_refines_and_no_longer_moves_is_done(begun, round, change, done):
    assert SHORT.done(replace(begun, round=round, change=change)) == done


@mark.parametrize(("total", "num_samples"), [(7, 3), (6, 3), (3, 3), (2, 5)])
def test_samples_take_turns(total, num_samples):
    counts = [
        np.bincount(
            online_dictionary._order(jax.random.key(turn), turn, num_samples, total),
            minlength=num_samples,
        )
        for turn in range(num_samples)
    ]
    assert all(each.sum() == total and np.ptp(each) <= 1 for each in counts)
    assert total > num_samples or (np.sum(counts, axis=0) == total).all()


@mark.parametrize(
    ("options", "num_samples", "num_latents", "expected"),
    [
        ({}, 2_500, 1_000, (20, 200)),
        ({}, 2_500, 100, (100, 20)),
        ({"visits": None}, 10**5, 1_000, (5, 200)),
        ({"batch_size": 64}, 2_500, 1_000, (62, 64)),
    ],
)
def test_minibatches_of_a_round(options, num_samples, num_latents, expected):
    assert OnlineDictionary(**options).minibatches(num_samples, num_latents) == expected


@mark.parametrize(
    ("options", "code", "restarts"),
    [
        ({}, 0.3, True),
        ({"weak": 0.05}, 0.3, False),
        ({"visits": None}, 0.3, False),
        ({"visits": None}, 0.0, True),
        ({"replace": False}, 0.3, False),
    ],
)
def test_weak_atoms_restart_in_a_pool_and_in_a_stream_those_never_used(
    options, code, restarts
):
    """Orthogonal atoms with codes of 1, the third with others, and a direction that none of them
    explains.
    """
    codes = np.tile(np.diag([1, 1, code, 1, 0]), (8, 1))
    signals = np.concatenate([codes, [[0, 0, 0, 0, 0.2]]]).astype("float32")
    learner = replace(COLD, num_steps=10, **options)
    past = {"dictionary": np.eye(5, 4), "round": 6, "noise": 1e-3, "amplitude": 1}
    new = take_round(learner, signals[None], begin(learner, signals, 4, **past))
    assert np.flatnonzero(np.diagonal(new.dictionary) < 0.9).tolist() == [2] * restarts
    # One that restarts has the mean energy.
    mean = (3 + code**2) / 4 if restarts else code**2
    assert float(new.energy[2] / new.energy[0]) == approx(mean, abs=0.05)


@mark.parametrize(
    ("turn", "incoherent", "moves"),
    [(31, True, True), (32, True, False), (31, False, False)],
)
def test_coherent_atoms_are_decorrelated_where_that_is_due(turn, incoherent, moves):
    # Turned, since dimensions in which no atom is count as padding.
    frame = np.linalg.qr(default_rng(0).standard_normal((64, 64)))[0][:, :3]
    atoms = (frame @ [[1, 0.8, 0.9], [0, 0.6, 0], [0, 0, 0.19**0.5]]).astype("float32")
    learner = replace(COLD, replace=False, incoherent=incoherent)
    state = begin(learner, atoms.T, 3, dictionary=atoms, round=turn)
    new = take_round(learner, atoms.T[None], state)
    assert (abs(np.asarray(new.dictionary - atoms)).max() > 0.1) == moves


def test_dimensions_of_zeros_hold_no_noise():
    sums = gradient_sums._Sums(0, jnp.array([4.0, 8]), jnp.array([1, 2]), 80.0)
    assert_allclose(gradient_sums.scales(sums, 10, 4, 0.5), [2, 2])


def test_fewer_samples_than_latents_and_signals_of_zeros():
    rows = default_rng(0).normal(size=(10, 8)).astype("float32")
    for signals in (rows, 0 * rows):
        found = run(OnlineDictionary(num_steps=3, visits=4), signals, 3, num_latents=30)
        assert np.isfinite(found.dictionary).all()


def test_centred_is_the_same_as_learning_from_centred_signals(noisy):
    learner = OnlineDictionary(visits=20)
    signals = noisy.train.signals + 3 * jnp.linspace(-1, 1, noisy.input_dim)
    mean = jnp.mean(signals, axis=0)
    whole = run(replace(learner, centred=True), signals, 1)
    apart = run(learner, signals - mean, 1)
    assert_allclose(whole.dictionary, apart.dictionary, atol=1e-3)
    assert_allclose(whole.noise, apart.noise, rtol=1e-4)
    assert_allclose(learner.model(whole).bias, mean, rtol=1e-5, atol=1e-6)


AXES = np.eye(8, dtype="float32")
RESIDUALS = jnp.asarray(
    AXES[[6, 5, 4, 4]] * np.array([[2], [1], [2.5], [3]], "float32")
)
USES = jnp.asarray([10.0, 10.0, 10.0, 0.0])


def seeds(most):
    return renewal.largest(RESIDUALS, most)


IDLE = [0, 1, 2, 3], [0.5, 4.0, 6.0, 0.0]


@mark.parametrize(
    ("atoms", "energy", "most", "weak", "wanted"),
    [
        # The weaker of two copies; copies first, by seeds that differ.
        ([0, 0, 1, 2], [5.0, 4.0, 6.0, 1.0], 1, 0.25, [0, 4, 1, 2]),
        ([0, 0, 1, 2], [5.0, 4.0, 6.0, 0.0], 4, 0.25, [0, 4, 1, 6]),
        # Of two copies of one energy the second.
        ([0, 0, 1, 2], [5.0, 5.0, 6.0, 5.0], 1, 0.25, [0, 4, 1, 2]),
        # Mean squares of .05, .4, .6 and none, of .35 for all uses: weak are those below a share.
        (*IDLE, 4, 0.13, [0, 1, 2, 4]),
        (*IDLE, 4, 0.15, [6, 1, 2, 4]),
    ],
)
def test_copies_and_weak_atoms_restart(atoms, energy, most, weak, wanted):
    given = jnp.asarray(AXES[:, atoms])
    new, fresh = renewal.restart_wasted_atoms(
        given, jnp.asarray(energy), USES, seeds(most), weak=weak
    )
    assert_array_equal(fresh, np.not_equal(new, given).any(axis=0))
    assert_allclose(new, AXES[:, wanted])


# Seeds that differ have squares of 9, 4 and 1.
@mark.parametrize(
    ("worth", "gain", "fresh"),
    [
        ([5.0, 3.0, 8.0, np.inf], True, [1]),
        ([5.0, 3.0, 0.5, np.inf], True, [1, 2]),
        ([5.0, 3.0, 8.0, np.inf], False, [0, 1, 2]),
    ],
)
def test_where_a_seed_must_gain_each_atom_is_compared_with_its_own(worth, gain, fresh):
    new = renewal.restart(
        jnp.asarray(AXES[:, :4]), jnp.asarray(worth), seeds(4), must_gain=gain
    )[1]
    assert np.flatnonzero(new).tolist() == fresh


FRAME = np.linalg.qr(default_rng(0).standard_normal((30, 12)))[0].astype(np.float32)


@mark.parametrize(("share", "number"), [(0.3, 4), (0.01, 1)])
def test_the_atoms_of_most_energy_are_kept_in_their_order(share, number):
    energy = jnp.array([5.0, 1, 9, 2, 8, 3, 12, 4, 11, 6, 10, 7])
    kept = (
        Pruned(share=share, base=Oracle()).model((FRAME, jnp.zeros(30), energy)).decoder
    )
    assert_array_equal(kept, FRAME[:, energy > 12 - number])


def test_energy_is_that_of_three_samples_for_each_of_500_latents():
    """Less the bias, on unit atoms, by codes that hardly shrink: the first 1,500 samples do not use
    all atoms.
    """
    rng = default_rng(0)
    codes = (rng.random((2_000, 12)) < 0.2) * rng.uniform(0.9, 1.1, (2_000, 12))
    codes[:1_500, :3] = 0
    bias = jnp.linspace(-1, 1, 30)
    noise = 0.01 * rng.standard_normal((2_000, 30))
    data = Split(jnp.float32(codes @ FRAME.T + noise) + bias)
    learner = Pruned(num_slots=12, base=Oracle())
    base = Model(2 * jnp.asarray(FRAME), bias)
    state = learner.init(data, num_latents=12, key=None, base=base)
    assert_allclose(state[2], (codes[:1_500] ** 2).sum(axis=0), rtol=0.1)
    assert_array_equal(learner.model(state).bias, bias)
