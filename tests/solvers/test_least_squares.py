"""Least squares on supports, against NumPy's lstsq sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import mark

from sae_gap.solvers import least_squares as module
from sae_gap.solvers.least_squares import least_squares


def by_lstsq(signals, dictionary, on):
    codes = np.zeros(on.shape)
    for i, where in enumerate(on):
        if where.any():
            codes[i, where] = np.linalg.lstsq(
                dictionary[:, where], signals[i], rcond=None
            )[0]
    return codes


@mark.parametrize("pull", [0.0, 1.0])
def test_samples_of_all_sizes_of_support_in_any_order(pull, monkeypatch):
    """Slots are 20 or 40, and beyond; several samples share a chunk. A pull adds to the normal
    equations, of a support beyond the dimension the part that the atoms span.
    """
    monkeypatch.setattr(module, "CHUNK", 3 * 40 * 60)
    rng = default_rng(0)
    sizes = np.array([41, 0, 20, 60, 1, 40, 21, 45, 19, 3, 38])
    on = np.argsort(rng.random((len(sizes), 60)), axis=1) < sizes[:, None]
    y = rng.normal(size=(len(sizes), 40))
    d = rng.normal(size=(40, 60))
    v = pull * rng.normal(size=on.shape)
    jax.clear_caches()
    with jax.enable_x64(True):
        given = [jnp.asarray(each) for each in ((y, d, on, v) if pull else (y, d, on))]
        found = np.asarray(least_squares(*given))
    expected = by_lstsq(y, d, on)
    for code, where, each in zip(expected, on, v, strict=True):
        code[where] += np.linalg.pinv(d[:, where].T @ d[:, where]) @ each[where]
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert not found[~on].any()


def test_a_pair_of_equal_atoms_shares_its_code_and_a_dead_atom_has_none():
    rng = default_rng(3)
    atoms = rng.normal(size=(12, 6))
    signals = rng.normal(size=(20, 12))
    atoms[:, 5], atoms[:, 2] = atoms[:, 4], 0
    on = np.arange(20)[:, None] * np.ones(6) > 0
    found = np.asarray(least_squares(*map(jnp.float32, (signals, atoms)), on))
    assert_allclose(found, by_lstsq(signals, atoms, on), atol=5e-3)
    assert not found[:, 2].any() and not found[0].any()


def test_no_two_factorisations_run_at_once():
    """Two threads that each wait for the other's in LAPACK never end."""
    on = jnp.ones((9, 40), bool)
    program = (
        least_squares.lower(jnp.ones((9, 12)), jnp.ones((12, 40)), on)
        .compile()
        .compiled.as_text()
    )
    together = [
        part.count('custom_call_target="lapack_spotrf')
        for part in program.split("\n\n")
    ]
    assert max(together) == 1 and sum(together) >= 2
