"""Atoms that restart: copies and weak ones, from the largest residuals that differ, however these
were collected.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import renewal

AXES = np.eye(8, dtype="float32")
RESIDUALS = jnp.asarray(AXES[[6, 5, 4, 4]] * np.array([[2], [1], [2.5], [3]], "float32"))
USES = jnp.asarray([10.0, 10.0, 10.0, 0.0])
# One program a shape.
restart_wasted_atoms = jax.jit(renewal.restart_wasted_atoms, static_argnames="weak")
restart = jax.jit(renewal.restart, static_argnames="must_gain")


@functools.partial(jax.jit, static_argnums=0)
def seeds(most):
    empty = renewal.empty_seeds(most, RESIDUALS)
    return renewal.collect(renewal.collect(empty, RESIDUALS[:3]), RESIDUALS[3:])


def test_the_largest_residuals_are_collected_in_order():
    np.testing.assert_allclose(seeds(3).squares, [9, 6.25, 4])
    np.testing.assert_allclose(seeds(3).residuals, RESIDUALS[jnp.array([3, 2, 0])])
    np.testing.assert_allclose(seeds(6).squares, [9, 6.25, 4, 1, -1, -1])


IDLE = [0, 1, 2, 3], [0.5, 4.0, 6.0, 0.0]


@pytest.mark.parametrize(
    ("atoms", "energy", "most", "weak", "wanted"),
    [
        # The weaker of two copies; without copies the idle; copies first, by seeds that differ.
        ([0, 0, 1, 2], [5.0, 4.0, 6.0, 1.0], 1, 0.25, [0, 4, 1, 2]),
        ([0, 1, 2, 3], [5.0, 4.0, 6.0, 0.0], 1, 0.25, [0, 1, 2, 4]),
        ([0, 0, 1, 2], [5.0, 4.0, 6.0, 0.0], 4, 0.25, [0, 4, 1, 6]),
        # Of two copies of one energy the second.
        ([0, 0, 1, 2], [5.0, 5.0, 6.0, 5.0], 1, 0.25, [0, 4, 1, 2]),
        # Mean squares of .05, .4, .6 and none, of .35 for all uses: weak are those below a share.
        (*IDLE, 4, 0.0, [0, 1, 2, 4]),
        (*IDLE, 4, 0.13, [0, 1, 2, 4]),
        (*IDLE, 4, 0.15, [6, 1, 2, 4]),
    ],
)
def test_copies_and_weak_atoms_restart(atoms, energy, most, weak, wanted):
    given = AXES[:, atoms]
    new, fresh = restart_wasted_atoms(given, jnp.asarray(energy), USES, seeds(most), weak=weak)
    np.testing.assert_array_equal(fresh, np.not_equal(new, given).any(axis=0))
    np.testing.assert_allclose(new, AXES[:, wanted])
    # An atom that is opposite is no copy.
    opposite = given * np.array([1, -1, 1, 1], "float32")
    fresh = restart_wasted_atoms(opposite, jnp.asarray(energy), USES, seeds(1), weak=0.25)[1]
    assert not fresh[:3].any() or energy[0] < 1


# Seeds that differ have squares of 9, 4 and 1.
@pytest.mark.parametrize(
    ("worth", "gain", "fresh"),
    [
        ([5.0, 3.0, 8.0, np.inf], True, [1]),
        ([5.0, 3.0, 0.5, np.inf], True, [1, 2]),
        ([9.5, 9.0, 20.0, 9.0], True, []),
        ([5.0, 3.0, 8.0, np.inf], False, [0, 1, 2]),
    ],
)
def test_where_a_seed_must_gain_each_atom_is_compared_with_its_own(worth, gain, fresh):
    new = restart(jnp.asarray(AXES[:, :4]), jnp.asarray(worth), seeds(4), must_gain=gain)[1]
    assert np.flatnonzero(new).tolist() == fresh


def test_room_that_no_residual_has_filled_starts_nothing():
    atoms, empty = jnp.asarray(AXES[:, [0] * 4]), renewal.empty_seeds(2, RESIDUALS)
    assert not restart_wasted_atoms(atoms, jnp.ones(4), USES, empty, weak=0.25)[1].any()
