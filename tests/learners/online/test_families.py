"""Families put in order: a round by hand, the truth as a fixed point, and merged atoms told
apart.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sae_gap.core.types import Model, Split
from sae_gap.learners.online.decorrelation import decorrelate_children
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.solvers.reweighted import atom_rows, pursue
from tests.learners.online.family.examples import of_pairs

BASE = OnlineDictionary()
WIDTH = 20


@pytest.fixture(scope="module")
def world():
    """Four families of five, in which a child is nearly always on beside its parent, at a ratio
    that hardly varies.
    """
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((40, WIDTH)))[0]
    n = 1_500
    codes = np.zeros((n, WIDTH), np.float32)
    for first in range(0, WIDTH, 5):
        parent = np.where(rng.random(n) < 0.35, rng.uniform(0.7, 1.3, n), 0)
        child = np.where(rng.random(n) < 0.9, rng.integers(1, 5, n), 0)
        codes[:, first] = parent
        chosen = child > 0
        codes[np.arange(n)[chosen], first + child[chosen]] = (parent * rng.uniform(0.7, 1.3, n))[
            chosen
        ]
    return frame, codes


@eqx.filter_jit
def _start(learner, signals, base):
    width = base.decoder.shape[1]
    return learner.init(Split(signals), base=base, num_latents=width, key=None)


def begin(learner, signals, dictionary, bias=None):
    bias = np.zeros(len(dictionary), np.float32) if bias is None else bias
    return _start(learner, signals, Model(np.asarray(dictionary, np.float32), bias))


@eqx.filter_jit
def take_step(learner, signals, state):
    return learner.step(Split(signals), state)


@eqx.filter_jit
def run(learner, signals, state):
    return jax.lax.fori_loop(
        0, learner.num_steps, lambda _, state: learner.step(Split(signals), state), state
    )


def fitted(learner, signals, dictionary):
    # Numbers as arrays, so that all that differ in these are compiled once.
    learner = jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, learner
    )
    return np.asarray(run(learner, signals, begin(learner, signals, dictionary)).dictionary)


def cosines(dictionary, truth):
    return np.max(np.abs(np.asarray(truth).T @ np.asarray(dictionary)), axis=1)


def merged(frame):
    """Children that have absorbed two fifths of their parents."""
    atoms = frame.copy()
    for first in range(0, WIDTH, 5):
        atoms[:, first + 1 : first + 5] += 0.4 * frame[:, first : first + 1]
    return atoms / np.linalg.norm(atoms, axis=0)


# One program for all tests of whole fits.
LEARNER = Families(base=BASE, num_steps=12, visits=3, num_slots=12)


def test_noise_alone_is_hardly_ever_taken_for_a_use():
    assert 2_048 * scipy.stats.norm.sf(Families(base=BASE).margin) < 0.1


@pytest.mark.parametrize(("done", "rate"), [(1, 1), (7, 1), (8, 2 / 3)])
def test_a_round_that_solves_is_the_one_that_is_documented(world, done, rate):
    """Of nine rounds the seventh is the last that rearranges."""
    frame, codes = world
    rng = np.random.default_rng(1)
    near = frame + 0.05 * rng.standard_normal(frame.shape)
    near /= np.linalg.norm(near, axis=0)
    bias = jnp.asarray(rng.standard_normal(40), jnp.float32)
    signals = jnp.asarray(codes[:700] @ frame.T, jnp.float32) + bias
    # Of 700 samples a round takes 500, and the next round those that follow.
    learner = Families(
        base=BASE, num_steps=9, visits=0.125, margin=6.0, weight=0.3, ridge=0.2, num_slots=4
    )
    state = begin(learner, signals, near, bias)
    state = eqx.tree_at(lambda s: s.round, state, np.int32(done))
    new = take_step(learner, signals, state)
    threshold = 6 * float(state.noise)
    assert threshold > 0.2 * float(state.amplitude)
    order = (500 * done + np.arange(500)) % 700
    given = np.asarray(signals - bias)[order]
    atoms = atom_rows(state.dictionary, 4)
    by_slot = pursue(given, atoms, threshold, 0.05 * threshold, num_slots=4)
    found, places = np.zeros((500, WIDTH)), np.minimum(np.asarray(by_slot.places), WIDTH - 1)
    np.add.at(found, (np.arange(500)[:, None], places), np.asarray(by_slot.codes))
    energy = found.T @ found
    rho = 0.2 * np.diag(energy).mean()
    # The ridge holds each atom where it was.
    old = np.asarray(state.dictionary)
    solved = np.linalg.solve(energy + rho * np.eye(WIDTH), found.T @ given + rho * old.T).T
    mean = old + rate * (solved - old)
    on = (found > 0).astype(float)
    counts = of_pairs(on.T @ on, energy, found.sum(axis=0), 500)
    mean = jnp.asarray(mean / np.linalg.norm(mean, axis=0), jnp.float32)
    parted = decorrelate_children(mean, counts, 0.3 * rate)
    assert np.abs(parted - mean).max() > 1e-2
    np.testing.assert_allclose(new.dictionary, parted, atol=1e-4)
    noise = np.sqrt(np.mean((given - found @ old.T) ** 2))
    amplitude = np.sqrt((found**2).sum() / (found > 0).sum())
    np.testing.assert_allclose([new.noise, new.amplitude], [noise, amplitude], rtol=1e-4)
    np.testing.assert_array_equal(learner.model(new).bias, bias)
    assert int(new.round) == done + 1


def test_a_round_takes_its_own_rows_alone_in_any_unit(world):
    frame, codes = world
    signals, bias = jnp.asarray(codes @ frame.T, jnp.float32), jnp.full(40, 0.3)
    learner = Families(base=BASE, num_steps=9, visits=0.125, num_slots=4)
    state = begin(learner, signals, merged(frame), bias)
    state = eqx.tree_at(lambda s: s.round, state, np.int32(1))
    rows = jnp.concatenate([signals[500:1000], jnp.full((3, 40), 9.0)])[None]
    found = jax.jit(lambda rows, state: learner.round(rows, state, 500))(rows, state)
    wanted = take_step(learner, signals, state)
    for name in ("dictionary", "squares", "noise", "amplitude"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-6
        )
    # Whatever the unit of the signals is.
    assert np.abs(wanted.dictionary - state.dictionary).max() > 1e-2
    for scale in (1e13, 1e-8):
        scaled = begin(learner, scale * signals, merged(frame), scale * bias)
        scaled = eqx.tree_at(lambda s: s.round, scaled, np.int32(1))
        again = take_step(learner, scale * signals, scaled).dictionary
        np.testing.assert_allclose(again, wanted.dictionary, atol=1e-4)


def test_the_truth_stays_and_children_leave_their_parents(world):
    frame, codes = world
    signals = jnp.asarray(codes @ frame.T, jnp.float32)
    assert cosines(fitted(LEARNER, signals, frame), frame).min() > 0.999
    start = merged(frame)
    assert cosines(start, frame).min() < 0.93
    assert cosines(fitted(LEARNER, signals, start), frame).min() > 0.99
    # Without what the counts tell, sparsity and reconstruction are content with mergers.
    blind = dataclasses.replace(LEARNER, weight=0.0)
    assert cosines(fitted(blind, signals, start), frame).min() < 0.93
    # Signals of zeros tell nothing.
    np.testing.assert_allclose(fitted(LEARNER, 0 * signals, frame), frame, atol=1e-6)


@pytest.mark.parametrize(
    ("turn", "restarts"), [(0, True), (1, False), (6, True), (8, False), (9, False)]
)
def test_idle_atoms_restart_from_the_largest_residuals_where_families_are_rearranged(
    turn, restarts
):
    """Every third of eleven rounds but for the last two. A concept without an atom, and two atoms
    without a use.
    """
    learner = Families(base=BASE, num_steps=11, visits=0.1)
    eye = np.eye(12, dtype=np.float32)
    signals = 5 * eye[np.arange(60) % 9] + 5 * eye[(np.arange(60) // 9) % 9]
    # Of the nine concepts one is unknown, and of the last three atoms one is rare, but was used in
    # the rounds before.
    dictionary = eye[:, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]]
    state = begin(learner, signals, dictionary)
    known = 25 * np.array([10] * 8 + [3, 0, 0], np.float32)
    state = eqx.tree_at(lambda s: (s.squares, s.round), state, (known, np.int32(turn)))
    new = take_step(learner, signals, state)
    moved = np.abs(np.asarray(new.dictionary) - dictionary).max(axis=0) > 1e-3
    assert moved[8:].tolist() == [False, restarts, False]
    if restarts:
        assert float(new.dictionary[8, 9]) > 0.95
        # It counts as used until it is known whether it is.
        assert float(new.squares[9]) > 25
    assert float(new.squares[8]) == pytest.approx(0.7 * 75)


def test_an_atom_that_restarts_is_not_decorrelated_by_its_old_counts():
    """An idle atom was used with the first alone; the concept that takes its place shares a tenth
    with that one.
    """
    learner = Families(base=BASE, num_steps=9, num_slots=8)
    # Rows of a full frame, since dimensions in which no atom is count as padding.
    eye = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))[0].astype(np.float32)
    concept = np.sqrt(0.99) * eye[7] + 0.1 * eye[0]
    others = np.resize(5 * eye[[0, 2, 3, 4, 5]], (991, 200))
    signals = jnp.asarray(np.concatenate([[5 * (eye[0] + eye[1])] * 8, [20 * concept], others]))
    state = begin(learner, signals, eye[:6].T)
    # A threshold above what the concept has of the first atom.
    known = 1e4 * np.array([1, 0, 1, 1, 1, 1], np.float32), np.float32(1.2)
    found = take_step(learner, signals, eqx.tree_at(lambda s: (s.squares, s.noise), state, known))
    np.testing.assert_allclose(found.dictionary[:, 1], concept, atol=1e-5)


def test_an_atom_that_became_a_parent_does_not_restart_in_the_same_round():
    """Two idle atoms, a family without its parent, and a concept of large residuals that no atom
    knows.
    """
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 8)))[0]
    parent, children, unknown = frame[:, 0], frame[:, 1:5], frame[:, 5]
    rays = (parent[:, None] + children) / np.sqrt(2)
    turn = np.arange(1_000) % 5
    signals = jnp.asarray(
        5 * np.where(turn[:, None] < 4, rays[:, turn % 4].T, unknown), jnp.float32
    )
    learner = Families(base=BASE, num_steps=9, num_slots=8)
    state = begin(learner, signals, np.concatenate([rays, frame[:, 6:]], axis=1))
    idle = np.asarray(take_step(learner, signals, state).dictionary)[:, 4:]
    assert np.abs(parent @ idle).max() > 0.85
    assert np.abs(unknown @ idle).max() > 0.95


def test_quiet_and_rare_atoms_that_are_right_stay():
    """A third of the size of others, or a fifteenth as often on, in noise: of little energy, but
    more than any residual.
    """
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((40, WIDTH))
    atoms /= np.linalg.norm(atoms, axis=0)
    rate, size = np.full(WIDTH, 0.06), np.full(WIDTH, 4.0)
    size[:4], rate[4:8] = 1.2, 0.004
    codes = (rng.random((1_500, WIDTH)) < rate) * size * rng.uniform(0.9, 1.1, (1_500, WIDTH))
    signals = jnp.asarray(codes @ atoms.T + 0.05 * rng.standard_normal((1_500, 40)), jnp.float32)
    assert cosines(fitted(LEARNER, signals, atoms), atoms).min() > 0.97


def test_a_base_of_another_width_keeps_it():
    base = Model(jnp.eye(8)[:, :5], jnp.zeros(8))
    start = jax.jit(
        lambda signals: Families(base=BASE).init(
            Split(signals), num_latents=20_000, key=None, base=base
        )
    )
    assert start(jnp.ones((9, 8))).squares.shape == (5,)


def test_the_noise_and_the_amplitude_are_known_before_the_first_round(world):
    frame, codes = world
    rng = np.random.default_rng(2)
    noise, bias = 0.02 * rng.standard_normal((len(codes), 40)), rng.standard_normal(40)
    # Coordinates that are always zero hold no noise.
    signals, atoms, bias = (
        jnp.pad(jnp.asarray(each, jnp.float32), ((0, 0),) * (each.ndim - 1) + ((0, 20),))
        for each in (codes @ frame.T + noise + bias, frame.T, bias)
    )
    state = begin(Families(base=BASE), signals, atoms.T, bias)
    assert float(state.noise) == pytest.approx(0.02, rel=0.2)
    some = codes[:1_024]
    amplitude = np.sqrt((some**2).sum() / (some > 0).sum())
    assert float(state.amplitude) == pytest.approx(amplitude, rel=0.1)


def test_families_need_a_base():
    with pytest.raises(ValueError, match="needs a base"):
        Families()
