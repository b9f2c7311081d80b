"""Least squares on supports, against NumPy's lstsq sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import least_squares as module
from sae_gap.solvers.least_squares import least_squares


@pytest.fixture(scope="module")
def signals(task):
    return task.id.signals


def by_lstsq(signals, dictionary, on):
    codes = np.zeros(on.shape)
    for i, where in enumerate(on):
        if where.any():
            codes[i, where] = np.linalg.lstsq(dictionary[:, where], signals[i], rcond=None)[0]
    return codes


@pytest.mark.parametrize("size", [1, 11, 12, 13, 14, 20])
def test_the_least_norm_solution_below_at_and_above_the_dimension(task, signals, size, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7 * 12 * 20)
    rng = np.random.default_rng(size)
    on = np.argsort(rng.random((100, 20)), axis=1) < size
    with jax.enable_x64(True):
        y, d = (
            jnp.asarray(np.asarray(signals), jnp.float64),
            jnp.asarray(np.asarray(task.dictionary), jnp.float64),
        )
        found = np.asarray(least_squares(y, d, jnp.asarray(on)))
    expected = by_lstsq(np.asarray(y), np.asarray(d), on)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert not found[~on].any()


def test_samples_of_all_sizes_of_support_in_any_order(monkeypatch):
    """Slots are 20 or 40, and beyond; several samples share a chunk."""
    monkeypatch.setattr(module, "CHUNK", 3 * 40 * 60)
    rng = np.random.default_rng(0)
    sizes = np.array([41, 0, 20, 60, 1, 40, 21, 45, 19, 3, 38])
    on = np.argsort(rng.random((len(sizes), 60)), axis=1) < sizes[:, None]
    y, d = rng.normal(size=(len(sizes), 40)), rng.normal(size=(40, 60))
    # What a chunk costs: those of the supports by their sizes.
    slots, few = [], module._few

    def seen(*args, **named):
        jax.debug.callback(lambda: slots.append(named["most"]))
        return few(*args, **named)

    monkeypatch.setattr(module, "_few", seen)
    with jax.enable_x64(True):
        found = np.asarray(least_squares(jnp.asarray(y), jnp.asarray(d), jnp.asarray(on)))
    expected = by_lstsq(y, d, on)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    jax.effects_barrier()
    assert sorted(slots) == [20, 20, 40, 40]


def test_a_pair_of_equal_atoms_shares_its_code_and_a_dead_atom_has_none(signals):
    atoms = np.random.default_rng(3).normal(size=(12, 6))
    atoms[:, 5], atoms[:, 2] = atoms[:, 4], 0
    on = np.ones((len(signals), 6), bool)
    found = np.asarray(least_squares(signals, jnp.asarray(atoms, jnp.float32), jnp.asarray(on)))
    expected = by_lstsq(np.asarray(signals, np.float64), atoms, on)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    np.testing.assert_allclose(
        found[:, 4] + found[:, 5], expected[:, 4] + expected[:, 5], atol=1e-5
    )
    assert not found[:, 2].any() and np.abs(expected[:, 4]).max() > 0.05


def test_no_atom_and_no_support_are_no_code(signals):
    found = least_squares(signals, jnp.zeros((12, 20)), jnp.ones((len(signals), 20), bool))
    assert not found.any()
    assert not least_squares(signals, jnp.ones((12, 20)), jnp.zeros((len(signals), 20), bool)).any()


@pytest.mark.parametrize("size", [0, 5, 10, 14])
def test_a_pull_adds_to_the_normal_equations(size):
    """On a support beyond the dimension, that part of it which the atoms span."""
    rng = np.random.default_rng(2)
    dictionary, on = rng.normal(size=(10, 20)), np.argsort(rng.uniform(size=(6, 20)), axis=1) < size
    signals, pull = rng.normal(size=(6, 10)), rng.normal(size=(6, 20))
    with jax.enable_x64(True):
        found = np.asarray(least_squares(*map(jnp.asarray, (signals, dictionary, on, pull))))
    assert not found[~on].any()
    for code, where, signal, v in zip(found, on, signals, pull, strict=True):
        own = dictionary[:, where]
        want = np.linalg.pinv(own.T @ own) @ (own.T @ signal + v[where])
        np.testing.assert_allclose(code[where], want, rtol=1e-5, atol=1e-7)


def test_no_two_factorisations_run_at_once():
    """Two threads that each wait for the other's in LAPACK never end."""
    on = jnp.ones((9, 40), bool)
    program = (
        least_squares.lower(jnp.ones((9, 12)), jnp.ones((12, 40)), on).compile().compiled.as_text()
    )
    together = [part.count('custom_call_target="lapack_spotrf') for part in program.split("\n\n")]
    assert max(together) == 1 and sum(together) >= 2
