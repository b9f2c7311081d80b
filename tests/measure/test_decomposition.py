"""What k atoms of a given dictionary capture, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from sae_gap.core.types import Model
from sae_gap.measure import decomposition
from sae_gap.saes.loaded_sae import SAE

DIM, WIDTH, N, SIZES = 10, 30, 24, (2, 4)
DOCUMENTS = np.repeat(np.arange(6), 4)


@pytest.fixture(scope="module")
def world():
    """Rows of four atoms of thirty that lean on each other, about a mean of their own."""
    rng = np.random.default_rng(0)
    atoms = (rng.normal(size=(DIM, WIDTH)) + rng.normal(size=(DIM, 1))).astype(np.float32)
    unit = atoms / np.linalg.norm(atoms, axis=0)
    codes = np.abs(rng.normal(size=(N, WIDTH))) * (rng.random((N, WIDTH)) < 4 / WIDTH)
    x = (codes @ unit.T + 0.1 * rng.normal(size=(N, DIM)) + 1).astype(np.float32)
    sae = SAE.of_model(Model(jnp.asarray(atoms), jnp.ones(DIM)), name="given")
    return sae, x, unit


@pytest.fixture(scope="module")
def rows(world):
    sae, x, _ = world
    found = decomposition.decompose(sae, x, DOCUMENTS, SIZES)
    return {(row["codes"], row["k"]): row for row in found}


def test_exchanges_capture_most_and_the_bound_is_above_them(world, rows):
    assert {*rows} == {(codes, k) for codes in decomposition.CODES for k in SIZES}
    for k in SIZES:
        own = {codes: rows[codes, k] for codes in decomposition.CODES}
        captured = {codes: row["captured"] for codes, row in own.items()}
        assert captured["exchange"] >= captured["orthogonal"] > captured["matching"]
        assert captured["exchange_lasso"] >= captured["lasso"] > 0
        assert captured["best"] == pytest.approx(max(captured.values()))
        for codes, row in own.items():
            assert row["lost"] == pytest.approx(captured["best"] - captured[codes], abs=1e-6)
            assert row["lost"] > -1e-6 and row["l0"] <= k
            assert row["low"] < row["captured"] < row["high"]
        assert captured["best"] - 1e-6 < own["best"]["bound"] <= 1
        assert (own["best"]["shared"], own["best"]["top"], own["best"]["lost"]) == (1, 1, 0)
        assert own["lasso"]["certificate"] < 1e-5
    assert rows["best", 4]["captured"] > rows["best", 2]["captured"]
    ceiling = decomposition.ceiling(*world[:2])
    assert rows["best", 4]["captured"] < ceiling["captured"] <= ceiling["bound"] <= 1


@pytest.mark.parametrize("narrow", [True, False])
def test_the_ceiling_is_that_of_all_atoms_and_its_bound_is_near_where_they_lie_on_one_side(narrow):
    rng = np.random.default_rng(3)
    atoms = (rng.normal(size=(DIM, WIDTH)) + 2 * narrow).astype(np.float32)
    x = rng.normal(size=(N, DIM)).astype(np.float32)
    found = decomposition.ceiling(
        SAE.of_model(Model(jnp.asarray(atoms), jnp.zeros(DIM)), name="d"), x
    )
    least = 1 - sum(scipy.optimize.nnls(atoms, row)[1] ** 2 for row in x) / np.sum(x**2)
    assert found["captured"] == pytest.approx(least, abs=1e-3)
    assert found["bound"] == pytest.approx(least + 0.015 if narrow else 1, abs=0.015)


def test_captured_variance_is_about_the_bias_whatever_the_atoms_lengths(world, rows):
    """By matching pursuit of two steps by hand."""
    _, x, unit = world
    target = x - 1.0
    left, uses = target.copy(), np.zeros((N, WIDTH), bool)
    for _ in range(2):
        pull = np.where(uses, -np.inf, left @ unit)
        best, place = pull.max(axis=1).clip(0), pull.argmax(axis=1)
        left -= best[:, None] * unit.T[place]
        uses[np.arange(N), place] = True
    row, shares = rows["matching", 2], np.sum(left**2, axis=1) / np.sum(target**2, axis=1)
    assert row["captured"] == pytest.approx(1 - np.sum(left**2) / np.sum(target**2), abs=1e-5)
    assert row["median"] == pytest.approx(np.median(1 - shares), abs=1e-5)
    assert row["atoms"] == uses.any(axis=0).sum()
    assert row["common"] == pytest.approx(uses.mean(axis=0).max())


def test_gains_are_those_of_the_span_and_occupancy_is_where_they_are_furthest_ahead(world):
    sae, x, unit = world
    gains, target = decomposition.gains(sae, x, 3), x - 1.0
    order = decomposition.pursued(sae, x, 3)
    for row, chosen, found in zip(target, order, gains, strict=True):
        left = [np.linalg.lstsq(unit[:, chosen[:k]], row)[1].sum() for k in (1, 2, 3)]
        np.testing.assert_allclose(1 - found.cumsum(), left / np.sum(row**2), atol=1e-4)
    real, control = np.array([[0.5, 0.2, 0.1, 0.1]]), np.array([[0.3, 0.1, 0.15, 0.2]])
    assert decomposition.occupancy(real, control).tolist() == [2]


@pytest.mark.parametrize("kind", ["covariance", "shuffled", "isotropic"])
def test_controls_keep_the_mean_and_the_second_moments_alone(kind):
    rng = np.random.default_rng(1)
    atoms = rng.normal(size=(4, 20_000)) * np.array([[4], [2], [1], [0.5]]) + 1
    atoms = (atoms / np.linalg.norm(atoms, axis=0)).astype(np.float32)
    found = decomposition.control_atoms(kind, atoms, 3)
    second, own = found @ found.T / 20_000, atoms @ atoms.T / 20_000
    alike = kind != "isotropic"
    assert np.allclose(second, own, atol=0.02) == alike
    assert np.allclose(found.mean(axis=1), atoms.mean(axis=1), atol=0.02) == alike
    assert np.abs(np.einsum("dn,dn->n", found, atoms)).mean() < 0.9
    assert not np.allclose(decomposition.control_atoms(kind, atoms, 4), found)
