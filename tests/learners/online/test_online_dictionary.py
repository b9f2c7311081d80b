"""The online learner: its step against numpy, its schedule, what it replaces, and that it recovers the truth."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, Split, draw, fit, match_atoms
from sae_gap.core.types import Model
from sae_gap.learners.online import online_dictionary
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.solvers.reweighted import atom_rows, pursue
from sae_gap.solvers.working_set import default_slots

QUICK = OnlineDictionary(visits=100)
TINY = OnlineDictionary(num_steps=3, visits=4)
# For what happens within a round.
SHORT = OnlineDictionary(num_steps=10, replace=False)


def cosine(task, model):
    return np.abs(match_atoms(model.dictionary, task.dictionary).cosine).mean()


def learn(learner, task, seed=0):
    return fit(learner, [task], [jax.random.key(seed)])[0].end.model


@pytest.fixture(scope="module")
def small():
    return draw(Setting(60, 3, 2_000))


@pytest.fixture(scope="module")
def learned(small):
    return learn(QUICK, small)


@pytest.mark.optimised
def test_it_recovers_the_truth(small, learned):
    assert cosine(small, learned) > 0.97
    np.testing.assert_allclose(jnp.linalg.norm(learned.dictionary, axis=0), 1, rtol=1e-5)


@pytest.mark.optimised
def test_it_recovers_the_truth_through_noise():
    noisy = draw(Setting(60, 3, 2_000, noise_db=20))
    assert cosine(noisy, learn(QUICK, noisy)) > 0.97


@pytest.mark.optimised
def test_it_recovers_signed_codes(small):
    rng = np.random.default_rng(0)
    codes = np.asarray(small.train.codes) * rng.choice([-1, 1], small.train.codes.shape)
    signed = dataclasses.replace(small, train=Split(jnp.asarray(codes @ np.asarray(small.dictionary).T, jnp.float32)))
    assert cosine(signed, learn(dataclasses.replace(QUICK, nonneg=False), signed)) > 0.97


@pytest.mark.optimised
def test_the_unit_of_the_signals_does_not_matter(small):
    scaled = dataclasses.replace(small, train=Split(small.train.signals * 2.0**12))
    assert cosine(small, learn(QUICK, scaled)) > 0.98


@pytest.mark.optimised
def test_the_same_key_gives_the_same_bits(small, learned):
    np.testing.assert_array_equal(learn(QUICK, small).dictionary, learned.dictionary)


@pytest.mark.optimised
def test_the_noise_is_read_off_the_residual():
    noisy = draw(Setting(60, 3, 2_000, noise_db=10))
    state = run(QUICK, noisy.train.signals, 60)
    clean = noisy.train.codes @ noisy.dictionary.T
    assert float(state.noise) == pytest.approx(float(jnp.std(noisy.train.signals - clean)), rel=0.2)


@eqx.filter_jit
def take_step(learner, data, state):
    return learner.step(data, state)


def run(learner, signals, num_latents, rounds=None):
    state = learner.init(Split(signals), num_latents=num_latents, key=jax.random.key(0))
    for _ in range(learner.num_steps if rounds is None else rounds):
        state = take_step(learner, Split(signals), state)
    return state


@eqx.filter_jit
def take_minibatch(learner, state, signals, progress):
    sums, left = learner._sums(state, signals, progress)
    return learner._advance(state, sums, len(signals), progress), left


@pytest.fixture(scope="module")
def begun(small):
    """A state with a past, of which the noise is small beside the floor."""
    state = SHORT.init(Split(small.train.signals), num_latents=60, key=jax.random.key(0))
    past = jnp.full(60, 0.2), jnp.asarray(0.5), jnp.asarray(0.02), jnp.asarray(1.0)
    return eqx.tree_at(lambda s: (s.energy, s.forgotten, s.noise, s.amplitude), state, past)


@pytest.mark.parametrize(
    ("options", "first", "middle", "last"),
    [({}, 0.5, 0.1, 0.02), ({"visits": None}, 0.5, 0.05, 0.01), ({"visits": None, "rates": (0.2, 0.1, 0.05)}, 0.2, 0.1, 0.05)],
)
@pytest.mark.parametrize("progress", [0.3, 0.95])
def test_a_step_is_the_one_that_is_documented(small, begun, progress, options, first, middle, last):
    signals = small.train.signals[:40]
    new, left = take_minibatch(dataclasses.replace(SHORT, **options), begun, signals, jnp.asarray(progress))
    late = max(0, (progress - 0.85) / 0.15)
    rate = middle * (last / middle) ** late if late else first * (middle / first) ** (progress / 0.85)
    floor = 0.18 * (0.03 / 0.18) ** late
    assert floor > 2.5 * 0.02
    slots = default_slots(*begun.dictionary.shape)
    found = jax.jit(pursue, static_argnames="num_slots")(
        signals, atom_rows(begun.dictionary, slots), floor, floor, num_slots=slots
    )
    codes, atoms = np.zeros((40, 60)), np.asarray(begun.dictionary, float)
    np.add.at(codes, (np.arange(40)[:, None], np.asarray(found.places)), np.asarray(found.codes))
    residual = np.asarray(signals) - codes @ atoms.T
    np.testing.assert_allclose(left, residual, atol=1e-5)
    squares = (codes**2).sum(axis=0)
    mean = (0.7 * 0.2 + 0.3 * squares) / (1 - 0.35)
    moved = atoms + rate * (residual.T @ codes) / (mean + 0.01 * mean.mean())
    np.testing.assert_allclose(new.dictionary, moved / np.linalg.norm(moved, axis=0), atol=1e-5)
    assert float(new.noise) == pytest.approx(np.sqrt(0.9 * 0.02**2 + 0.1 * (residual**2).mean()), rel=1e-5)
    assert float(new.amplitude) == pytest.approx(0.9 + 0.1 * np.sqrt(squares.sum() / (codes != 0).sum()), rel=1e-5)


def test_a_round_goes_on_minibatch_by_minibatch(small, begun):
    begun = eqx.tree_at(lambda s: s.round, begun, jnp.asarray(5))
    first, second = np.asarray(small.train.signals[:80]).reshape(2, 40, -1)
    whole = eqx.filter_jit(SHORT.round)(jnp.stack([first, second]), begun)
    for late, same in ((0.55, True), (0.5, False)):
        state, _ = take_minibatch(SHORT, begun, first, jnp.asarray(0.5))
        state, _ = take_minibatch(SHORT, state, second, jnp.asarray(late))
        assert np.allclose(whole.dictionary, state.dictionary, atol=2e-5) is same
    assert int(whole.round) == 6


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 0.5), (0.425, 0.5 * 0.2**0.5), (0.85, 0.1), (0.925, 0.1 * 0.2**0.5), (1, 0.02)]
)
def test_rates_fall_geometrically_in_two_stretches(progress, expected):
    assert float(online_dictionary._between(0.5, 0.1, 0.02, progress, 0.85)) == pytest.approx(expected)


@pytest.mark.parametrize(("total", "num_samples"), [(7, 3), (6, 3), (3, 3), (2, 5)])
def test_samples_take_turns(total, num_samples):
    orders = [
        np.asarray(online_dictionary._order(jax.random.key(turn), turn, num_samples, total)) for turn in range(num_samples)
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


@pytest.mark.optimised
def test_replacement_finds_what_copies_keep_from_being_found(small):
    data = Split(small.train.signals)
    state = run(QUICK, small.train.signals, 60, rounds=60)
    state = eqx.tree_at(lambda s: s.dictionary, state, state.dictionary.at[:, 1].set(state.dictionary[:, 0]))
    state = take_step(QUICK, data, state)
    # One of the two began anew, from a residual.
    assert abs(float(state.dictionary[:, 0] @ state.dictionary[:, 1])) < 0.9
    for _ in range(39):
        state = take_step(QUICK, data, state)
    assert cosine(small, QUICK.model(state)) > 0.97


@pytest.mark.parametrize(
    ("options", "code", "fresh"),
    [
        ({}, 0.3, [2]),
        ({"visits": None}, 0.3, []),
        ({"visits": None}, 0.0, [2]),
        ({"visits": None, "weak": 0.25}, 0.3, [2]),
        ({"weak": 0.05}, 0.3, []),
        ({"replace": False}, 0.3, []),
    ],
)
def test_weak_atoms_start_anew_in_a_pool_and_in_a_stream_only_those_never_used(options, code, fresh):
    """Orthogonal atoms with codes of 1, the third with others, and a direction that none of them explains."""
    frame = np.eye(5, dtype="float32")
    codes = np.tile(np.diag([1, 1, code, 1]).astype("float32"), (8, 1))
    signals = jnp.asarray(np.concatenate([codes @ frame[:4], [0.2 * frame[4]]]))
    learner = OnlineDictionary(num_steps=10, rates=(1e-4, 1e-4, 1e-4), **options)
    state = learner.init(Split(signals), num_latents=4, key=jax.random.key(0))
    past = jnp.asarray(frame[:, :4]), jnp.asarray(6, jnp.int32), jnp.asarray(1e-3), jnp.asarray(1.0)
    state = eqx.tree_at(lambda s: (s.dictionary, s.round, s.noise, s.amplitude), state, past)
    new = eqx.filter_jit(learner.round)(signals[None], state)
    assert np.flatnonzero(np.diagonal(new.dictionary) < 0.9).tolist() == fresh


def test_coherent_atoms_part_in_every_third_round_of_those_in_which_they_settle():
    atoms = np.zeros((64, 4), "float32")
    atoms[:4] = np.array([[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0.9, 0, 0, 0.19**0.5]]).T
    # Turned, since dimensions in which no atom is count as padding.
    atoms = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0] @ atoms, jnp.float32)
    learner = OnlineDictionary(num_steps=100, rates=(1e-4, 1e-4, 1e-4), replace=False, incoherent=True)
    signals = atoms.T
    state = learner.init(Split(signals), num_latents=4, key=jax.random.key(0))
    take_round, parted = eqx.filter_jit(learner.round), []
    for turn in (1, 28, 31, 32, 33, 94, 97):
        begun = eqx.tree_at(lambda s: (s.dictionary, s.round), state, (atoms, jnp.asarray(turn, jnp.int32)))
        if np.abs(np.asarray(take_round(signals[None], begun).dictionary - atoms)).max() > 0.1:
            parted.append(turn)
    assert parted == [31, 94]


@pytest.mark.optimised
def test_a_fit_that_no_longer_moves_stops(small):
    (found,) = fit(dataclasses.replace(QUICK, tol=1.0), [small], [jax.random.key(0)])
    assert found.end.step == 86


def test_fewer_samples_than_latents_and_signals_of_zeros():
    few = run(TINY, jax.random.normal(jax.random.key(0), (10, 8)), 30)
    zeros = run(TINY, jnp.zeros((10, 8)), 30)
    assert all(bool(jnp.isfinite(state.dictionary).all()) for state in (few, zeros))


@pytest.mark.optimised
def test_a_model_has_no_bias(learned, small):
    assert isinstance(learned, Model) and not learned.bias.any() and learned.bias.shape == (small.input_dim,)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_centred_is_the_same_as_learning_from_centred_signals(small, constant):
    learner = OnlineDictionary(visits=20)
    signals = small.train.signals + constant * jnp.linspace(-1, 1, small.input_dim)
    mean = jnp.mean(signals, axis=0)
    whole = run(dataclasses.replace(learner, centred=True), signals, 60, rounds=1)
    apart = run(learner, signals - mean, 60, rounds=1)
    np.testing.assert_allclose(whole.dictionary, apart.dictionary, atol=1e-3)
    np.testing.assert_allclose(whole.noise, apart.noise, rtol=1e-4)
    np.testing.assert_allclose(learner.model(whole).bias, mean, rtol=1e-5, atol=1e-6)
    assert not np.any(learner.model(apart).bias)


def test_centred_no_atom_is_spent_on_the_mean(small):
    toward = np.linspace(-1, 1, small.input_dim)
    moved = dataclasses.replace(small, train=Split(small.train.signals + 3 * jnp.asarray(toward, jnp.float32)))
    learners = [OnlineDictionary(visits=20, centred=centred) for centred in (False, True)]
    atoms = [np.asarray(run(learner, moved.train.signals, 60, rounds=10).dictionary) for learner in learners]
    likeness = [np.abs(toward / np.linalg.norm(toward) @ each).max() for each in atoms]
    assert likeness[0] > 0.9 > likeness[1]
