"""Variance explained and shrinkage, by their formulas."""

import numpy as np
import pytest
import scipy.sparse

from sae_gap.metrics import fvu
from sae_gap.metrics.explained import explained
from tests.metrics.samples import RNG, sparse_codes, unit


def test_explained_is_by_its_formula(monkeypatch):
    monkeypatch.setattr("sae_gap.core.codes._AT_ONCE", 12)
    codes, atoms, bias = sparse_codes(30, 4), unit(5, 4) * 2, np.arange(5, dtype=np.float32)
    signals = codes @ atoms.T + bias + 0.3 * RNG.standard_normal((30, 5)).astype(np.float32)
    signals[7] = 0
    drawn = codes @ atoms.T + bias
    variance = np.mean(np.sum(signals**2, axis=1)) - np.sum(signals.mean(axis=0) ** 2)
    found = explained(signals, atoms, bias, scipy.sparse.csr_array(codes))
    assert found["r2"] == pytest.approx(
        1 - np.mean(np.sum((signals - drawn) ** 2, axis=1)) / variance, rel=1e-4
    )
    keep = np.arange(30) != 7
    assert found["shrinkage"] == pytest.approx(
        np.mean(np.linalg.norm(drawn[keep], axis=1) / np.linalg.norm(signals[keep], axis=1)),
        rel=1e-5,
    )


def test_what_has_no_variance_or_no_length_scores_zero():
    codes, atoms = sparse_codes(30, 4), unit(5, 4)
    for value in (1, 0.1):
        constant = explained(np.full((30, 5), value, np.float32), atoms, np.ones(5), codes)
        assert constant["r2"] == 0 and constant["shrinkage"] > 0
    assert explained(np.zeros((30, 5), np.float32), atoms, np.zeros(5), codes) == {
        "r2": 0,
        "shrinkage": 0,
    }


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_a_large_bias_leaves_what_is_explained(offset):
    codes, atoms = sparse_codes(200, 4), unit(5, 4)
    bias = np.full(5, offset, np.float32)
    signals = (codes @ atoms.T + 0.1 * RNG.standard_normal((200, 5)) + bias).astype(np.float32)
    left = signals.astype(np.float64) - bias - codes @ atoms.T
    expected = 1 - np.sum(left**2) / np.sum((signals - signals.mean(axis=0, dtype=np.float64)) ** 2)
    assert explained(signals, atoms, bias, codes)["r2"] == pytest.approx(expected, abs=1e-4)


def test_what_is_explained_is_told_at_any_scale():
    codes = np.array([[1, 0, 2], [0, 1, 0], [1, 1, 0]], float)
    for scale in (1e-30, 1e-3, 1, 1e30):
        found = explained(scale * codes, np.eye(3), np.zeros(3), 0.5 * scale * codes)
        varied = ((codes - codes.mean(axis=0)) ** 2).sum()
        assert found["r2"] == pytest.approx(1 - 0.25 * (codes**2).sum() / varied)
        assert found["shrinkage"] == pytest.approx(0.5 if scale > 1e-6 else 0)
    for kind, scale in ((np.float16, 300), (np.float32, 1e30)):
        found = explained(
            kind(scale * codes), np.eye(3, dtype=kind), np.zeros(3, kind), kind(0.5 * scale * codes)
        )
        assert found["shrinkage"] == pytest.approx(0.5, rel=1e-3)


def test_fvu_is_one_for_the_mean():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4))
    assert fvu(x, np.tile(x.mean(axis=0), (50, 1))) == pytest.approx(1) and fvu(x, x) == 0
    assert fvu(7 * x, 7 * (x + 1)) == pytest.approx(fvu(x, x + 1))
    with pytest.raises(ValueError, match="one shape"):
        fvu(x, x[:3])
    with pytest.raises(ValueError, match="no variance"):
        fvu(np.ones((3, 2)), np.zeros((3, 2)))
