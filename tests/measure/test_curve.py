"""Curves against scikit-learn and SciPy, and distances from curves that are known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear
from sklearn.linear_model import Lasso as SklearnLasso

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.topk import TopK
from sae_gap.measure import coding, fvu, measure_curve
from sae_gap.measure.curve import l0_ratio
from sae_gap.saes.loaded_sae import SAE


def problem(seed=0, n=30, dim=8, width=14):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(dim, width)) * rng.uniform(0.5, 2, width)
    bias = rng.normal(size=dim)
    codes = np.maximum(rng.normal(size=(n, width)), 0) * (rng.random((n, width)) < 0.3)
    x = (codes @ dictionary.T + bias + 0.1 * rng.normal(size=(n, dim))).astype(np.float32)
    arrays = [
        jnp.asarray(array, jnp.float32)
        for array in (dictionary, bias, dictionary / 3, np.zeros(width))
    ]
    return x, Model(arrays[0], arrays[1], Affine(arrays[2], arrays[3]), TopK(3))


def unexplained(x, approximation):
    x, approximation = np.asarray(x, float), np.asarray(approximation, float)
    return np.square(x - approximation).sum() / np.square(x - x.mean(axis=0)).sum()


def test_points_are_those_of_scikit_learn_and_of_scipy(monkeypatch):
    monkeypatch.setattr(coding, "CHUNK", 11)
    x, model = problem()
    sae = SAE.of_model(model, name="mine")
    documents = np.arange(30) // 10
    found = measure_curve(sae, x, [0.1, 0.5], documents)
    dictionary = np.asarray(model.dictionary, float)
    unit, target = (
        dictionary / np.linalg.norm(dictionary, axis=0),
        np.asarray(x - model.bias, float),
    )
    for point in found.points:
        peer = SklearnLasso(
            alpha=point.lam / 8, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000
        )
        codes = np.array([peer.fit(unit, y).coef_ for y in target])
        again = np.zeros_like(codes)
        for code, y, z in zip(again, target, codes, strict=True):
            code[z > 0] = (
                lsq_linear(unit[:, z > 0], y, (0, np.inf), tol=1e-12).x if (z > 0).any() else 0
            )
        assert point.l0 == pytest.approx((codes > 0).sum(1).mean())
        assert point.fvu == pytest.approx(
            unexplained(x, codes @ unit.T + np.asarray(model.bias)), rel=1e-3
        )
        assert point.refit_fvu == pytest.approx(
            unexplained(x, again @ unit.T + np.asarray(model.bias)), rel=1e-3
        )
        rest = np.square(x - (again @ unit.T + np.asarray(model.bias))).sum(axis=1)
        assert (
            point.refit_errors == pytest.approx(rest.reshape(3, 10).sum(axis=1), rel=1e-3)
            and len(point.errors) == 3
        )
        assert point.refit_fvu < point.fvu and 0 <= point.certificate <= 1.1e-6
    assert [point.lam for point in found.points] == [0.5, 0.1] and found.points[
        0
    ].l0 < found.points[1].l0
    own = np.asarray(model.encode(model, jnp.asarray(x)))
    assert found.own.l0 == (own > 0).sum(1).mean() and found.own.lam is None
    assert found.own.fvu == pytest.approx(
        unexplained(x, own @ dictionary.T + np.asarray(model.bias)), rel=1e-4
    )
    best = [
        lsq_linear(dictionary[:, z > 0], y, (0, np.inf)).x @ dictionary[:, z > 0].T
        for y, z in zip(target, own, strict=True)
    ]
    assert found.own.refit_fvu == pytest.approx(
        unexplained(x, best + np.asarray(model.bias)), rel=1e-3
    )
    assert found.own.refit_fvu < found.own.fvu and found.own.refit_l0 <= found.own.l0


def test_the_certificate_is_the_largest_of_all_chunks(monkeypatch):
    monkeypatch.setattr(coding, "CHUNK", 11)
    x, model = problem()
    # Signals that are the bias need no codes, and so are exact.
    easy = np.tile(np.asarray(model.bias), (11, 1))
    orders = np.concatenate([x[:11], easy]), np.concatenate([easy, x[:11]])
    first, last = (
        measure_curve(SAE.of_model(model, name="mine"), order, [0.3]).points[0].certificate
        for order in orders
    )
    assert first == pytest.approx(last, rel=1e-3) and first > 0


def test_fvu_is_one_for_the_mean():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4))
    assert fvu(x, np.tile(x.mean(axis=0), (50, 1))) == pytest.approx(1) and fvu(x, x) == 0
    assert fvu(7 * x, 7 * (x + 1)) == pytest.approx(fvu(x, x + 1))
    with pytest.raises(ValueError, match="one shape"):
        fvu(x, x[:3])
    with pytest.raises(ValueError, match="no variance"):
        fvu(np.ones((3, 2)), np.zeros((3, 2)))


def test_the_distance_from_a_power_law_is_exact_and_none_out_of_its_range():
    # FVU = 2 / L0, which is a line in logarithms.
    curve = [(4.0, 0.5), (1.0, 2.0), (16.0, 0.125)]
    assert [l0_ratio(curve, *at) for at in ((8.0, 0.5), (2.0, 1.0), (10.0, 1.0))] == pytest.approx(
        [2, 1, 5]
    )
    assert (
        l0_ratio(curve, 4.0, 2.5) is None
        and l0_ratio(curve, 0.0, 1.0) is None
        and l0_ratio([(3.0, 0.0)], 3.0, 1.0) is None
    )
    # Of a curve that rises again, the sparsest place counts.
    assert l0_ratio([(1.0, 0.4), (2.0, 0.1), (4.0, 0.4)], 8.0, 0.2) == pytest.approx(8 / 2**0.5)
