"""What k atoms of a given dictionary capture, by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from sae_gap.core.types import Model
from sae_gap.encoders.pursuit import GradientPursuit
from sae_gap.encoders.screened_pursuit import ScreenedPursuit
from sae_gap.measure import decomposition
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import exchange_pursuit, sparse_code

DIM, WIDTH, N, K = 10, 30, 24, 3
DOCUMENTS = np.repeat(np.arange(6), 4)


@pytest.fixture(scope="module")
def world():
    """Rows of four atoms of thirty that lean on each other, about a mean of their own; the last row
    is the mean.
    """
    rng = np.random.default_rng(0)
    atoms = (rng.normal(size=(DIM, WIDTH)) + rng.normal(size=(DIM, 1))).astype(np.float32)
    unit = atoms / np.linalg.norm(atoms, axis=0)
    codes = np.abs(rng.normal(size=(N, WIDTH))) * (rng.random((N, WIDTH)) < 4 / WIDTH)
    x = (codes @ unit.T + 0.1 * rng.normal(size=(N, DIM)) + 1).astype(np.float32)
    x[-1] = 1
    sae = SAE.of_model(Model(jnp.asarray(atoms), jnp.ones(DIM)), name="given")
    return sae, x, unit


@pytest.fixture(scope="module")
def measured(world):
    """The rows by their codes, their bounds by each dual, and duality gaps, which are made up."""
    draw, bounds, gaps = np.random.default_rng(0), [], []
    bound = decomposition.boxed_bound
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decomposition, "STEPS", 6)
        patch.setattr(
            decomposition, "boxed_bound", lambda *given: bounds.append(bound(*given)) or bounds[-1]
        )
        patch.setattr(
            decomposition, "relative_gap", lambda _: gaps.append(draw.random(N)) or gaps[-1]
        )
        rows = decomposition.decompose(*world[:2], DOCUMENTS, [K])
    return {row["codes"]: row for row in rows}, np.array(bounds), np.array(gaps)


def test_exchanges_capture_most_and_the_bound_is_above_them(world, measured):
    own, bounds, gaps = measured
    assert [*own] == [*decomposition.CODES] and {row["k"] for row in own.values()} == {K}
    captured = {codes: row["captured"] for codes, row in own.items()}
    assert captured["exchange"] >= captured["orthogonal"] > captured["matching"]
    assert captured["exchange_lasso"] >= captured["lasso"] > 0
    assert captured["best"] == pytest.approx(max(captured.values()))
    for codes, row in own.items():
        assert row["lost"] == pytest.approx(captured["best"] - captured[codes], abs=1e-6)
        assert row["lost"] > -1e-6 and 1.5 < row["l0"] <= K
        assert row["low"] < row["captured"] < row["high"]
    assert (own["best"]["shared"], own["best"]["lost"]) == (1, 0)
    # The bound of each row is its least, that of the target itself and of the path's residuals.
    energy = np.sum((world[1] - 1.0) ** 2, axis=1)
    shares = bounds @ energy / energy.sum()
    assert own["best"]["bound"] == pytest.approx(bounds.min(axis=0) @ energy / energy.sum())
    assert len(bounds) == 7 and captured["best"] < own["best"]["bound"] < shares.min()
    assert gaps.shape == (6, N) and own["lasso"]["certificate"] == gaps.max()
    ceiling = decomposition.ceiling(*world[:2])
    assert captured["best"] < ceiling["captured"] <= ceiling["bound"] <= 1


@pytest.mark.parametrize(("width", "narrow"), [(WIDTH, True), (WIDTH, False), (1, True)])
def test_the_ceiling_is_that_of_all_atoms_and_its_bound_is_near_where_they_lie_on_one_side(
    width, narrow
):
    rng = np.random.default_rng(3)
    atoms = (rng.normal(size=(DIM, width)) + 2 * narrow).astype(np.float32)
    x = rng.normal(size=(N, DIM)).astype(np.float32)
    found = decomposition.ceiling(
        SAE.of_model(Model(jnp.asarray(atoms), jnp.zeros(DIM)), name="d"), x
    )
    assert 0 < found["l0"] <= width
    least = 1 - sum(scipy.optimize.nnls(atoms, row)[1] ** 2 for row in x) / np.sum(x**2)
    assert found["captured"] == pytest.approx(least, abs=1e-3)
    low, high = (least, least + 0.03) if narrow else (0.985, 1)
    assert low - 1e-5 < found["bound"] < high + 1e-5


def test_captured_variance_is_about_the_bias_whatever_the_atoms_lengths(world, measured):
    """By matching pursuit by hand."""
    _, x, unit = world
    target = x - 1.0
    left, uses = target.copy(), np.zeros((N, WIDTH), bool)
    for _ in range(K):
        pull = np.where(uses, -np.inf, left @ unit)
        best, place = pull.max(axis=1).clip(0), pull.argmax(axis=1)
        left -= best[:, None] * unit.T[place]
        uses[np.arange(N), place] = best > 0
    row, energy = measured[0]["matching"], np.sum(target**2, axis=1)
    # Of a row of zeros all is captured.
    shares = np.sum(left**2, axis=1) / np.append(energy[:-1], 1)
    assert row["captured"] == pytest.approx(1 - np.sum(left**2) / energy.sum(), abs=1e-5)
    assert row["median"] == pytest.approx(np.median(1 - shares), abs=1e-5)
    assert row["atoms"] == uses.any(axis=0).sum()
    assert row["common"] == pytest.approx(uses.mean(axis=0).max())


def test_codes_are_compared_with_the_best_ones(world, measured):
    """By dense codes of the same pursuits, and least squares of SciPy on the lasso's supports."""
    sae, x, unit = world
    target, rows = x - 1, measured[0]
    top = (target @ unit).max(axis=1, keepdims=True).clip(1e-9)
    codes = {
        "orthogonal": exchange_pursuit(target, unit, K, exchanges=False).toarray(),
        "gradient": GradientPursuit(K, nonneg=True).infer(sae.unit_model, target).codes,
        "screened": ScreenedPursuit(K).infer(sae.unit_model, target).codes,
        "lasso": np.zeros((N, WIDTH)),
    }
    for step in range(1, 7):
        lasso = np.asarray(sparse_code(target, unit, top * decomposition.RATIO**step).codes)
        for i in np.flatnonzero((lasso > 0).sum(axis=1) <= K):
            on = lasso[i] > 0
            codes["lasso"][i] = 0
            if on.any():
                codes["lasso"][i, on] = scipy.optimize.nnls(unit[:, on], target[i])[0]
    starts = (codes["orthogonal"], codes["lasso"])
    ends = [exchange_pursuit(target, unit, K, start=start).toarray() for start in starts]
    errors = [np.sum((target - end @ unit.T) ** 2, axis=1) for end in ends]
    codes["best"] = np.where((errors[0] <= errors[1])[:, None], *ends)
    for name, found in codes.items():
        found, row = np.asarray(found), rows[name]
        on, best = found > 0, codes["best"] > 0
        left = np.sum((target - found @ unit.T) ** 2) / np.sum(target**2)
        expected = {"captured": 1 - left, "l0": on.sum() / N, "atoms": on.any(axis=0).sum()}
        expected |= {"common": on.mean(axis=0).max(), "shared": (on & best).sum() / best.sum()}
        same = found.argmax(axis=1) == codes["best"].argmax(axis=1)
        expected["top"] = same.mean()
        assert {column: row[column] for column in expected} == pytest.approx(expected, abs=1e-5)
        assert 0 < row["high"] - row["captured"] < 0.3 and 0 < row["captured"] - row["low"] < 0.3
        assert row["lost_low"] <= row["lost"] <= row["lost_high"]
    assert 0 < rows["gradient"]["top"] < 1 and 0 < rows["lasso"]["shared"] < 1


@pytest.mark.parametrize("copies", [1, 3])
def test_gains_are_those_of_the_span_and_occupancy_is_where_they_are_furthest_ahead(world, copies):
    _, x, unit = world
    unit = np.repeat(unit, copies, axis=1)
    sae = SAE.of_model(Model(jnp.asarray(unit), jnp.ones(DIM)), name="given")
    gains, target = decomposition.gains(sae, x, K), x - 1.0
    order = decomposition.pursued(sae, x, K)
    assert not gains[-1].any()
    for row, chosen, found in zip(target[:-1], order[:-1], gains[:-1], strict=True):
        spans = [unit[:, chosen[:k]] for k in (1, 2, 3)]
        left = [np.sum((row - span @ np.linalg.pinv(span, 1e-4) @ row) ** 2) for span in spans]
        np.testing.assert_allclose(1 - found.cumsum(), left / np.sum(row**2), atol=1e-4)
    real, control = np.array([[0.5, 0.2, 0.1, 0.1]]), np.array([[0.3, 0.1, 0.15, 0.2]])
    assert decomposition.occupancy(real, control).tolist() == [2]


def test_no_code_in_the_box_captures_more_than_the_bound():
    """For any θ; at the best one it is the optimum of the relaxation."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        atoms = rng.normal(size=(5, 8)) + rng.normal(size=(5, 1))
        atoms /= np.linalg.norm(atoms, axis=0)
        signal = rng.normal(size=(1, 5)) + np.abs(rng.normal(size=(1, 3))) @ atoms.T[:3]
        fits = [
            (scipy.optimize.nnls(atoms[:, on], signal[0]), on)
            for on in map(list, itertools.combinations(range(8), 3))
        ]
        (values, left), on = min(fits, key=lambda fit: fit[0][1])
        duals = [signal, rng.normal(size=signal.shape), signal - values @ atoms.T[on]]
        duals += [signal - scale * signal @ atoms @ atoms.T / 8 for scale in (0.3, 1)]
        for dual in duals:
            bound = decomposition.boxed_bound(signal, atoms, dual, 3, values.max(keepdims=True))
            assert bound[0] > 1 - left**2 / np.sum(signal**2) - 1e-9
    # For one atom in the box of 3 the relaxation takes 1 off each of 3, 2 and 1.
    basis, values = np.eye(4), np.array([[3.0, 2, 1, 0]])
    bounds = [
        decomposition.boxed_bound(values, basis, values.clip(0, top), 1, np.full(1, 3))
        for top in (1, 2)
    ]
    assert min(bounds) == pytest.approx(1 - 3 / 14)


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
    # Their coordinates along the principal axes.
    axes = np.linalg.svd(atoms - atoms.mean(axis=1, keepdims=True), full_matrices=False)[0]
    sorts = [np.sort(axes.T @ each, axis=1) for each in (found, atoms)]
    assert np.allclose(*sorts, atol=1e-3) == (kind == "shuffled")
    assert not np.allclose(decomposition.control_atoms(kind, atoms, 4), found)
