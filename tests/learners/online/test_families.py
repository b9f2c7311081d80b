"""Families put in order: a round by hand, the truth as a fixed point, and merged atoms told
apart.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model, Split
from sae_gap.learners import Families, OnlineDictionary, decorrelate_children
from sae_gap.solvers import atom_rows
from sae_gap.solvers.reweighted import pursue
from tests.learners.online.examples import of_codes, unit

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
        chosen = np.flatnonzero(child)
        codes[:, first] = parent
        codes[chosen, first + child[chosen]] = (parent * rng.uniform(0.7, 1.3, n))[chosen]
    return frame, codes, jnp.asarray(codes @ frame.T, jnp.float32)


@eqx.filter_jit
def _start(learner, signals, base):
    # A base of another width keeps it.
    return learner.init(Split(signals), base=base, num_latents=20_000, key=None)


def begin(learner, signals, dictionary, bias=None, **past):
    """A state, some numbers of which are those of rounds before."""
    bias = np.zeros(len(dictionary), np.float32) if bias is None else bias
    state = _start(learner, signals, Model(np.asarray(dictionary, np.float32), bias))
    like = {name: np.asarray(given, getattr(state, name).dtype) for name, given in past.items()}
    return dataclasses.replace(state, **like)


@eqx.filter_jit
def take_step(learner, signals, state):
    return learner.step(Split(signals), state)


@eqx.filter_jit
def run(learner, signals, state):
    return jax.lax.fori_loop(
        0, learner.num_steps, lambda _, state: learner.step(Split(signals), state), state
    )


def least_cosine(learner, signals, dictionary, truth):
    """The cosine of the concept that is learned worst."""
    # Numbers as arrays, so that all that differ in these are compiled once.
    learner = jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, learner
    )
    found = run(learner, signals, begin(learner, signals, dictionary)).dictionary
    return np.abs(truth.T @ np.asarray(found)).max(axis=1).min()


def merged(frame):
    """Children that have absorbed two fifths of their parents."""
    atoms = frame.copy()
    for first in range(0, WIDTH, 5):
        atoms[:, first + 1 : first + 5] += 0.4 * frame[:, first : first + 1]
    return unit(atoms)


# One program for all tests of whole fits.
LEARNER = Families(base=BASE, num_steps=12, visits=3, num_slots=12)


@pytest.mark.parametrize(("done", "rate"), [(1, 1), (7, 1), (8, 2 / 3)])
def test_a_round_that_solves_is_the_one_that_is_documented(world, done, rate):
    """Of nine rounds the seventh is the last that rearranges."""
    frame, _, signals = world
    rng = np.random.default_rng(1)
    near = unit(frame + 0.05 * rng.standard_normal(frame.shape))
    bias = jnp.asarray(rng.standard_normal(40), jnp.float32)
    signals = signals[:700] + bias
    # Of 700 samples a round takes 500, and the next round those that follow.
    learner = Families(
        base=BASE, num_steps=9, visits=0.125, margin=6.0, weight=0.3, ridge=0.2, num_slots=4
    )
    state = begin(learner, signals, near, bias, round=done)
    new = take_step(learner, signals, state)
    threshold = 6 * float(state.noise)
    assert threshold > 0.2 * float(state.amplitude)
    given = np.asarray(signals - bias)[(500 * done + np.arange(500)) % 700]
    atoms = atom_rows(state.dictionary, 4)
    by_slot = pursue(given, atoms, threshold, 0.05 * threshold, num_slots=4)
    found, places = np.zeros((500, WIDTH)), np.minimum(np.asarray(by_slot.places), WIDTH - 1)
    np.add.at(found, (np.arange(500)[:, None], places), np.asarray(by_slot.codes))
    energy = found.T @ found
    rho = 0.2 * np.diag(energy).mean()
    # The ridge holds each atom where it was.
    old = np.asarray(state.dictionary)
    solved = np.linalg.solve(energy + rho * np.eye(WIDTH), found.T @ given + rho * old.T).T
    mean = jnp.asarray(unit(old + rate * (solved - old)), jnp.float32)
    parted = decorrelate_children(mean, of_codes(found, 500), 0.3 * rate)
    assert np.abs(parted - mean).max() > 1e-2
    np.testing.assert_allclose(new.dictionary, parted, atol=1e-4)
    noise = np.sqrt(np.mean((given - found @ old.T) ** 2))
    amplitude = np.sqrt((found**2).sum() / (found > 0).sum())
    np.testing.assert_allclose([new.noise, new.amplitude], [noise, amplitude], rtol=1e-4)
    np.testing.assert_array_equal(learner.model(new).bias, bias)
    assert int(new.round) == done + 1


def test_a_round_takes_its_own_rows_alone_in_any_unit(world):
    frame, _, signals = world
    bias = jnp.full(40, 0.3)
    learner = Families(base=BASE, num_steps=9, visits=0.125, num_slots=4)
    state = begin(learner, signals, merged(frame), bias, round=1)
    rows = jnp.concatenate([signals[500:1000], jnp.full((3, 40), 9.0)])[None]
    found = jax.jit(lambda rows, state: learner.round(rows, state, 500))(rows, state)
    wanted = take_step(learner, signals, state)
    for name in ("dictionary", "squares", "noise", "amplitude"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-6
        )
    assert np.abs(wanted.dictionary - state.dictionary).max() > 1e-2
    for scale in (1e13, 1e-8):
        scaled = begin(learner, scale * signals, merged(frame), scale * bias, round=1)
        again = take_step(learner, scale * signals, scaled).dictionary
        np.testing.assert_allclose(again, wanted.dictionary, atol=1e-4)


def test_the_truth_stays_and_children_leave_their_parents(world):
    frame, _, signals = world
    start = merged(frame)
    assert least_cosine(LEARNER, signals, frame, frame) > 0.999
    assert np.diag(start.T @ frame).min() < 0.93
    assert least_cosine(LEARNER, signals, start, frame) > 0.99
    # Without what the counts tell, sparsity and reconstruction are content with mergers.
    blind = dataclasses.replace(LEARNER, weight=0.0)
    assert least_cosine(blind, signals, start, frame) < 0.93
    # Signals of zeros tell nothing.
    assert least_cosine(LEARNER, 0 * signals, frame, frame) > 0.999


def test_quiet_and_rare_atoms_that_are_right_stay():
    """A third of the size of others, or a fifteenth as often on, in noise: of little energy, but
    more than any residual.
    """
    rng = np.random.default_rng(0)
    atoms = unit(rng.standard_normal((40, WIDTH)))
    rate, size = np.full(WIDTH, 0.06), np.full(WIDTH, 4.0)
    size[:4], rate[4:8] = 1.2, 0.004
    codes = (rng.random((1_500, WIDTH)) < rate) * size * rng.uniform(0.9, 1.1, (1_500, WIDTH))
    signals = jnp.asarray(codes @ atoms.T + 0.05 * rng.standard_normal((1_500, 40)), jnp.float32)
    assert least_cosine(LEARNER, signals, atoms, atoms) > 0.97


@pytest.mark.parametrize(
    ("turn", "restarts"), [(0, True), (1, False), (6, True), (8, False), (9, False)]
)
def test_idle_atoms_restart_from_the_largest_residuals_where_families_are_rearranged(
    turn, restarts
):
    """Every third of eleven rounds but for the last two. A concept without an atom, two atoms
    without a use, and a rare one that was used in the rounds before.
    """
    learner = Families(base=BASE, num_steps=11, visits=0.1)
    eye = np.eye(12, dtype=np.float32)
    signals = 5 * eye[np.arange(60) % 9] + 5 * eye[(np.arange(60) // 9) % 9]
    dictionary = eye[:, [*range(8), 9, 10, 11]]
    known = [250] * 8 + [75, 0, 0]
    new = take_step(
        learner, signals, begin(learner, signals, dictionary, squares=known, round=turn)
    )
    moved = np.abs(np.asarray(new.dictionary) - dictionary).max(axis=0) > 1e-3
    assert moved[8:].tolist() == [False, restarts, False]
    # One that restarts counts as used until it is known whether it is.
    assert float(new.squares[8]) == pytest.approx(0.7 * 75) and (new.squares[9] > 25) == restarts
    assert not restarts or float(new.dictionary[8, 9]) > 0.95


# Rows of a full frame, since dimensions in which no atom is count as padding.
FRAME = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))[0].astype(np.float32)
FIRST = Families(base=BASE, num_steps=9, num_slots=8)


def test_an_atom_that_restarts_is_not_decorrelated_by_its_old_counts():
    """An idle atom was used with the first alone; the concept that takes its place shares a tenth
    with that one.
    """
    concept = np.sqrt(0.99) * FRAME[7] + 0.1 * FRAME[0]
    others = np.resize(5 * FRAME[[0, 2, 3, 4, 5]], (991, 200))
    signals = np.concatenate([[5 * (FRAME[0] + FRAME[1])] * 8, [20 * concept], others])
    # A threshold above what the concept has of the first atom.
    past = {"squares": [1e4, 0, *[1e4] * 4], "noise": 1.2}
    new = take_step(FIRST, signals, begin(FIRST, signals, FRAME[:6].T, **past))
    np.testing.assert_allclose(new.dictionary[:, 1], concept, atol=1e-5)


def test_an_atom_that_became_a_parent_does_not_restart_in_the_same_round():
    """Two idle atoms, a family without its parent, and a concept of large residuals that no atom
    knows.
    """
    parent, unknown, *others = FRAME[:8]
    rays = unit((parent + others[:4]).T)
    signals = 5 * np.column_stack([rays, unknown])[:, np.arange(1_000) % 5].T
    start = begin(FIRST, signals, np.column_stack([rays, *others[4:]]))
    idle = np.asarray(take_step(FIRST, signals, start).dictionary)[:, 4:]
    assert np.abs(parent @ idle).max() > 0.85 and np.abs(unknown @ idle).max() > 0.95


def test_the_noise_and_the_amplitude_are_known_before_the_first_round(world):
    frame, codes, signals = world
    rng = np.random.default_rng(2)
    noise, bias = 0.02 * rng.standard_normal((len(codes), 40)), rng.standard_normal(40)
    # Coordinates that are always zero hold no noise.
    signals, atoms, bias = (
        jnp.pad(jnp.asarray(each, jnp.float32), ((0, 0),) * (np.ndim(each) - 1) + ((0, 20),))
        for each in (signals + noise + bias, frame.T, bias)
    )
    state = begin(Families(base=BASE), signals, atoms.T, bias)
    some = codes[:1_024]
    amplitude = np.sqrt((some**2).sum() / (some > 0).sum())
    assert float(state.noise) == pytest.approx(0.02, rel=0.2)
    assert float(state.amplitude) == pytest.approx(amplitude, rel=0.1)
