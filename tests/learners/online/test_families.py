"""Families put in order: a round by hand, the truth as a fixed point, and merged atoms told
apart.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark

from sae_gap.core import Model, Split
from sae_gap.learners import Families, OnlineDictionary, decorrelate_children
from sae_gap.learners.online import families
from tests.learners import steps
from tests.learners.online.test_family import of_codes, unit
from tests.solvers.test_reweighted import dense, pursue

BASE = OnlineDictionary()
WIDTH = 20


@fixture(scope="module")
def world():
    """Four families of five, in which a child is nearly always on beside its parent, at a ratio
    that hardly varies.
    """
    rng = default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((40, WIDTH)))[0]
    n = 1_500
    parent = (rng.random((n, 4, 1)) < 0.35) * rng.uniform(0.7, 1.3, (n, 4, 1))
    child = np.eye(4)[rng.integers(4, size=(n, 4))] * rng.uniform(0.7, 1.3, (n, 4, 1))
    child *= rng.random((n, 4, 1)) < 0.9
    codes = np.concatenate([parent, parent * child], axis=2).reshape(n, WIDTH)
    return frame, jnp.float32(codes @ frame.T)


def begin(learner, signals, dictionary, bias=None, **past):
    """A state, some numbers of which are those of rounds before."""
    bias = jnp.zeros(len(dictionary)) if bias is None else bias
    # A base of another width keeps it.
    state = steps.begin(
        learner, Split(signals), 20_000, base=Model(jnp.float32(dictionary), bias)
    )
    return replace(state, **past)


def least_cosine(learner, signals, dictionary, truth):
    """The cosine of the concept that is learned worst."""
    # Numbers as arrays, so that all that differ in these are compiled once.
    learner = jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, learner
    )
    state = begin(learner, signals, dictionary)
    for _ in range(learner.num_steps):
        state = steps.take_step(learner, Split(signals), state)
    return abs(truth.T @ np.asarray(state.dictionary)).max(axis=1).min()


def merged(frame):
    """Children that have absorbed two fifths of their parents."""
    atoms = frame.copy()
    for first in range(0, WIDTH, 5):
        atoms[:, first + 1 : first + 5] += 0.4 * frame[:, first : first + 1]
    return unit(atoms)


# One program for all tests of whole fits.
LEARNER = Families(base=BASE, num_steps=12, visits=3, num_slots=12)


@mark.parametrize(("done", "rate"), [(1, 1), (7, 1), (8, 2 / 3)])
def test_a_round_that_solves_is_the_one_that_is_documented(
    world, done, rate, monkeypatch
):
    """Of nine rounds the seventh is the last that rearranges."""
    frame, signals = world
    rng = default_rng(1)
    near = unit(frame + 0.05 * rng.standard_normal(frame.shape))
    bias = jnp.float32(rng.standard_normal(40))
    signals = signals[:700] + bias
    # Of 700 samples a round takes 500, and the next round those that follow.
    monkeypatch.setattr(families, "RIDGE", 0.2)
    learner = Families(
        base=BASE, num_steps=9, visits=0.125, margin=6.0, weight=0.3, num_slots=4
    )
    state = begin(learner, signals, near, bias, round=jnp.int32(done))
    new = steps.take_step(learner, Split(signals), state)
    threshold = 6 * float(state.noise)
    assert threshold > 0.2 * float(state.amplitude)
    given = np.asarray(signals - bias)[(500 * done + np.arange(500)) % 700]
    scales = threshold, 0.05 * threshold
    found = dense(pursue(given, state.dictionary, *scales, num_slots=4), WIDTH)
    energy = found.T @ found
    rho = 0.2 * np.diag(energy).mean()
    # The ridge holds each atom where it was.
    old = np.asarray(state.dictionary)
    solved = np.linalg.solve(
        energy + rho * np.eye(WIDTH), found.T @ given + rho * old.T
    ).T
    mean = jnp.float32(unit(old + rate * (solved - old)))
    parted = decorrelate_children(mean, of_codes(found, 500), 0.3 * rate)
    assert abs(parted - mean).max() > 1e-2
    assert_allclose(new.dictionary, parted, atol=1e-4)
    noise = np.sqrt(np.mean((given - found @ old.T) ** 2))
    amplitude = np.sqrt((found**2).sum() / (found > 0).sum())
    assert_allclose([new.noise, new.amplitude], [noise, amplitude], rtol=1e-4)
    assert_array_equal(learner.model(new).bias, bias)
    assert int(new.round) == done + 1


def test_the_truth_stays_and_children_leave_their_parents(world):
    frame, signals = world
    start = merged(frame)
    assert least_cosine(LEARNER, signals, frame, frame) > 0.999
    assert np.diag(start.T @ frame).min() < 0.93
    assert least_cosine(LEARNER, signals, start, frame) > 0.99
    # Without what the counts tell, sparsity and reconstruction are content with mergers.
    assert least_cosine(replace(LEARNER, weight=0.0), signals, start, frame) < 0.93
    # Signals of zeros tell nothing.
    assert least_cosine(LEARNER, 0 * signals, frame, frame) > 0.999


@mark.parametrize(
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
    new = steps.take_step(
        learner,
        Split(signals),
        begin(
            learner,
            signals,
            dictionary,
            squares=jnp.float32(known),
            round=jnp.int32(turn),
        ),
    )
    moved = abs(np.asarray(new.dictionary) - dictionary).max(axis=0) > 1e-3
    assert moved[8:].tolist() == [False, restarts, False]
    # One that restarts counts as used until it is known whether it is.
    assert (
        float(new.squares[8]) == approx(0.7 * 75) and (new.squares[9] > 25) == restarts
    )
    assert not restarts or float(new.dictionary[8, 9]) > 0.95
