"""What k atoms of a given dictionary capture, by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from sae_gap import Store, open_activations
from sae_gap.core.types import Model
from sae_gap.data.held_out import HeldOut
from sae_gap.encoders.exchange import LassoPath
from sae_gap.encoders.pursuit import OMP
from sae_gap.learners.given import Given, Held
from sae_gap.measure import decomposition
from sae_gap.measure.methods import study_of
from sae_gap.study.runner import run

DIM, WIDTH, N, K = 10, 30, 24, 3
DOCUMENTS = np.repeat(np.arange(6), 4)
RNG = np.random.default_rng(0)
# Rows of four atoms of thirty that lean on each other, about a mean of their own; the last row is
# the mean.
ATOMS = (RNG.normal(size=(DIM, WIDTH)) + RNG.normal(size=(DIM, 1))).astype(np.float32)
UNIT = ATOMS / np.linalg.norm(ATOMS, axis=0)
CODES = np.abs(RNG.normal(size=(N, WIDTH))) * (RNG.random((N, WIDTH)) < 4 / WIDTH)
X = (CODES @ UNIT.T + 0.1 * RNG.normal(size=(N, DIM)) + 1).astype(np.float32)
X[-1] = 1
TARGET, ENERGY = X - 1, np.sum((X - 1.0) ** 2, axis=1)


def rows_of(folder, unit=UNIT, names=decomposition.CODES):
    held = open_activations(X, documents=DOCUMENTS)
    source = HeldOut(held, 1, 1, N, True, held_out=held)
    given = Given(Held(Model(jnp.asarray(unit), jnp.ones(DIM))), "given")
    methods = [*decomposition.coded(given, names, [K])]
    methods += decomposition.bounding(given, K, 0, 2)
    study = study_of("decompose", (source,), methods, *decomposition.metrics(K))
    return run(study, Store(folder))


def test_codes_are_held_against_the_best_ones_and_the_bound_is_above_them(tmp_path, monkeypatch):
    """By dense codes of the same encoders."""
    bounds, bound = [], decomposition.boxed_bound
    monkeypatch.setattr(decomposition, "STEPS", 6)
    monkeypatch.setattr(
        decomposition,
        "boxed_bound",
        lambda *given: bounds.append((bound(*given), given[-1])) or bounds[-1][0],
    )
    lines = [*decomposition.lines(rows_of(tmp_path), [K])]
    *own, ceiling = (line for line in lines if "control" not in line)
    ways, model = decomposition.ways(K), Model(jnp.asarray(UNIT), jnp.ones(DIM))
    codes = {name: np.asarray(encoder.infer(model, X).codes) for name, encoder in ways.items()}
    errors = {name: np.sum((TARGET - z @ UNIT.T) ** 2, axis=1) for name, z in codes.items()}
    best, total = codes["best"], ENERGY.sum()
    for line, (name, found) in zip(own, codes.items(), strict=True):
        on, left = found > 0, errors[name]
        expected = {"k": K, "captured": 1 - left.sum() / total, "l0": on.sum() / N}
        expected["lost"] = (left - errors["best"]).sum() / total
        # Of a row of zeros all is captured.
        expected["median"] = np.median(1 - left / np.append(ENERGY[:-1], 1))
        expected |= {"atoms": on.any(axis=0).sum(), "common": on.mean(axis=0).max()}
        expected["shared"] = (on & (best > 0)).sum() / (best > 0).sum()
        expected["top"] = np.mean(found.argmax(axis=1) == best.argmax(axis=1))
        assert line["codes"] == name
        assert {column: line[column] for column in expected} == pytest.approx(expected, abs=1e-5)
        assert line["lost_low"] <= line["lost"] <= line["lost_high"] and line["lost"] > -1e-6
        assert -0.3 < line["low"] - line["captured"] < 0 < line["high"] - line["captured"] < 0.3
    # The bound of each row is its least, that of the target itself and of the path's residuals.
    (first, boxes), top = zip(*bounds[:7], strict=True), own[-1]["bound"]
    np.testing.assert_allclose(boxes, [best.max(axis=1)] * 7, rtol=1e-4)
    assert top == pytest.approx(np.min(first, axis=0) @ ENERGY / total) and len(bounds) <= 8
    assert own[-1]["captured"] < top < min(first @ ENERGY) / total
    assert ceiling["k"] is ceiling["lost"] is ceiling["median"] is None
    assert own[-1]["captured"] < ceiling["captured"] <= ceiling["bound"] <= 1


@pytest.mark.parametrize(("width", "narrow"), [(WIDTH, True), (WIDTH, False), (1, True)])
def test_the_ceiling_is_that_of_all_atoms_and_its_bound_is_near_where_they_lie_on_one_side(
    width, narrow
):
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(DIM, width)) + 2 * narrow
    atoms = (atoms / np.linalg.norm(atoms, axis=0)).astype(np.float32)
    x = rng.normal(size=(N, DIM)).astype(np.float32)
    lasso, model = LassoPath(width, 1e-3, 1), Model(jnp.asarray(atoms), jnp.zeros(DIM))
    rest, energy = x - lasso.infer(model, x).codes @ atoms.T, np.sum(x**2, axis=1)
    least = sum(scipy.optimize.nnls(atoms, row)[1] ** 2 for row in x) / energy.sum()
    assert np.sum(rest**2) / energy.sum() == pytest.approx(least, abs=1e-3)
    beyond = 1 - decomposition.cone_bound(x, atoms, np.asarray(rest)) @ energy / energy.sum()
    assert -1e-5 < (least - beyond if narrow else beyond) < 0.03


def test_gains_are_those_of_the_span(tmp_path):
    """Of atoms that come twice one adds nothing."""
    unit = np.repeat(UNIT, 2, axis=1)
    rows = rows_of(tmp_path, unit, ())[1:]
    kinds = ["given", "isotropic", "shuffled", "covariance", "covariance"]
    assert [row["control"] for row in rows] == kinds
    gains = np.array(rows[0]["gains"])
    order = OMP(K, nonneg=True).infer(Model(jnp.asarray(unit), jnp.ones(DIM)), X).order
    assert not gains[-1].any()
    for row, chosen, found in zip(TARGET[:-1], np.asarray(order), gains, strict=False):
        spans = [unit[:, chosen[:k]] for k in (1, 2, 3)]
        left = [np.sum((row - span @ np.linalg.pinv(span, 1e-4) @ row) ** 2) for span in spans]
        np.testing.assert_allclose(1 - found.cumsum(), left / np.sum(row**2), atol=1e-4)


def test_the_occupancy_is_where_a_dictionary_is_furthest_ahead_of_the_mean_of_its_draws():
    # The first draw alone would say 1, and the other 3.
    given, *drawn = [0.5, 0.2, 0.1, 0.1], [0.15, 0.35, 0.3, 0.2], [0.3, 0.0, 0.0, 0.3]
    rows = [{"control": "given", "gains": [given]}]
    rows += [{"control": "other", "gains": [gains]} for gains in drawn]
    one, other = decomposition.lines(rows, [2])
    told = [other[name] for name in ("k", "low", "captured", "high", "occupancy")]
    assert told == pytest.approx([2, 0.3, 0.4, 0.5, 2]) and one["captured"] == pytest.approx(0.7)


def test_no_code_in_the_box_captures_more_than_the_bound():
    """For any θ; at the best one it is the optimum of the relaxation."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        atoms = rng.normal(size=(5, 8)) + rng.normal(size=(5, 1))
        atoms /= np.linalg.norm(atoms, axis=0)
        signal = rng.normal(size=5) + np.abs(rng.normal(size=3)) @ atoms.T[:3]
        supports = map(list, itertools.combinations(range(8), 3))
        fits = [(scipy.optimize.nnls(atoms[:, on], signal), on) for on in supports]
        (values, left), on = min(fits, key=lambda fit: fit[0][1])
        duals = [signal, rng.normal(size=5), signal - atoms[:, on] @ values]
        duals += [signal - scale * atoms @ atoms.T @ signal / 8 for scale in (0.3, 1)]
        same, most = np.tile(signal, (5, 1)), np.full(5, values.max())
        bounds = decomposition.boxed_bound(same, atoms, np.array(duals), 3, most)
        assert bounds.min() > 1 - left**2 / np.sum(signal**2) - 1e-9
    # For one atom in the box of 3 the relaxation takes 1 off each of 3, 2 and 1.
    values = np.array([[3.0, 2, 1, 0]] * 2)
    duals = values.clip(0, [[1], [2]])
    bounds = decomposition.boxed_bound(values, np.eye(4), duals, 1, np.full(2, 3))
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
