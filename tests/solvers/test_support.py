"""Codes on given supports, against SciPy and NumPy in double precision, and against weights that
keep all else out.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import nnls

from sae_gap.solvers import sparse_code


def draw(sizes, *, dim=12, width=40, coherent=0.0, seed=0):
    """Signals, atoms of lengths from .1 to 10, one of zeros and two alike, and supports of these
    sizes.
    """
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(dim, width)) + coherent * rng.normal(size=(dim, 1))
    dictionary = (dictionary * 10 ** rng.uniform(-1, 1, width)).astype(np.float32)
    dictionary[:, 3], dictionary[:, 8] = 0, 2 * dictionary[:, 9]
    on = np.argsort(rng.random((len(sizes), width)), axis=1) < np.array(sizes)[:, None]
    signals = 100 * rng.normal(size=(len(on), dim)) + (on * rng.normal(size=on.shape)) @ (
        dictionary.T
    )
    return signals.astype(np.float32), dictionary, on


def losses(signals, dictionary, codes, lam=0.0):
    """½‖y − D z‖² + λ‖z‖₁ over ½‖y‖²."""
    z = np.asarray(codes, np.float64)
    rest = signals.astype(float) - z @ dictionary.T.astype(float)
    value = 0.5 * np.sum(rest**2, axis=1) + np.sum(lam * np.abs(z), axis=1)
    return value / (0.5 * np.sum(signals.astype(float) ** 2, axis=1))


# The crowded ones hold more atoms than there are dimensions.
SIZES, CROWDED = (0, 1, 2, 5, 7, 11, 12, 15, 16), tuple(range(17, 33))


@pytest.mark.parametrize("coherent", [0.0, 4.0])
def test_least_squares_are_those_of_scipy_and_numpy(coherent):
    signals, dictionary, on = draw((*SIZES, *CROWDED), coherent=coherent)
    for nonneg in (True, False):
        found = sparse_code(signals, dictionary, 0.0, nonneg=nonneg, support=on)
        best = np.zeros(on.shape)
        for y, row, z in zip(signals.astype(float), on, best, strict=True):
            if not row.any():
                continue
            atoms = dictionary[:, row].astype(float)
            z[row] = nnls(atoms, y)[0] if nonneg else np.linalg.lstsq(atoms, y, rcond=None)[0]
        own, least = (losses(signals, dictionary, codes) for codes in (found.codes, best))
        np.testing.assert_allclose(own, least, atol=2e-9, rtol=1e-6)
        codes = np.asarray(found.codes)
        assert not codes[~on].any() and not codes[:, 3].any() and (codes < 0).any() != nonneg


@pytest.mark.parametrize("nonneg", [True, False])
def test_the_lasso_is_certified_and_that_of_weights_that_keep_all_else_out(nonneg):
    signals, dictionary, on = draw(SIZES)
    lam = np.linspace(5, 60, len(signals))[:, None].astype(np.float32)
    found = sparse_code(signals, dictionary, lam, nonneg=nonneg, support=on)
    values = found.objective / (0.5 * np.sum(signals.astype(float) ** 2, axis=1))
    np.testing.assert_allclose(values, losses(signals, dictionary, found.codes, lam), rtol=1e-5)
    assert found.converged.all()
    assert (np.asarray(found.gap) <= 1e-7 * np.asarray(found.objective)).all()
    weights = np.where(on, lam, np.float32(1e30))
    peer = sparse_code(signals, dictionary, weights, nonneg=nonneg)
    np.testing.assert_allclose(found.objective, peer.objective, rtol=3e-6)
    traced = jax.jit(lambda y, on: sparse_code(y, dictionary, lam, nonneg=nonneg, support=on))
    np.testing.assert_allclose(traced(signals, on).objective, peer.objective, rtol=3e-6)
    # A support that leaves out an atom in use costs something, and says nothing of that.
    smaller = np.asarray(found.codes)
    smaller = smaller * (abs(smaller) < abs(smaller).max(axis=1, keepdims=True))
    less = sparse_code(signals, dictionary, lam, nonneg=nonneg, support=smaller)
    used = np.asarray(found.codes).any(axis=1)
    assert less.converged.all() and (less.objective[used] > found.objective[used]).all()


def test_supports_of_any_form_and_codes_of_any_form_are_alike():
    # Of these the last needs more slots.
    signals, dictionary, on = draw((*SIZES, 28))
    weights = np.full(on.shape[1], 7, np.float32)
    dense = sparse_code(signals, dictionary, weights, support=on)
    stored = scipy.sparse.csr_array(np.ones(on.shape))
    stored.data[:] = on.ravel()
    thin = sparse_code(signals, dictionary, weights, support=stored, sparse=True)
    np.testing.assert_array_equal(thin.codes.toarray(), dense.codes)
    assert stored.nnz == on.size, "what is given stays as it is"
    twice = scipy.sparse.csr_array(([1.0, -1.0, 2.0], [3, 3, 5], [0, 3]), shape=(1, 40))
    sparse_code(signals[:1], dictionary, weights, support=twice)
    np.testing.assert_array_equal(twice.data, [1, -1, 2])
    with pytest.raises(ValueError, match=r"support must be .* \(10, 40\).* has shape \(10, 39\)"):
        sparse_code(signals, dictionary, weights, support=on[:, 1:])


def test_nothing_to_fit_is_zero():
    signals, dictionary, on = draw((7,) * 4)
    on[0], signals[1], dictionary[:, on[2]] = False, 0, 0
    for nonneg in (True, False):
        codes = np.asarray(sparse_code(signals, dictionary, 0.0, nonneg=nonneg, support=on).codes)
        assert np.isfinite(codes).all() and not codes[:3].any() and codes[3].any()
    assert not sparse_code(signals, dictionary, 1.0, support=np.zeros_like(on)).codes.any()


def test_plain_steps_on_a_support_begin_where_they_are_told():
    signals, dictionary, on = draw((3, 4))
    begun, plain = np.full(on.shape, 0.25, np.float32), {"tol": None, "support": on}
    for init, expected in ((begun, np.where(on, begun, 0)), (None, 0 * begun)):
        found = sparse_code(signals, dictionary, 5.0, init=init, max_iterations=0, **plain)
        np.testing.assert_array_equal(found.codes, expected)
    found = sparse_code(signals, dictionary, 5.0, init=begun, max_iterations=2_000, **plain)
    best = sparse_code(signals, dictionary, 5.0, support=on.tolist())
    np.testing.assert_allclose(found.objective, best.objective, rtol=1e-3)
    assert not np.asarray(found.codes)[~on].any()


@pytest.mark.parametrize("lam", [0.0, 1e-6])
@pytest.mark.parametrize("nonneg", [True, False])
def test_atoms_that_hardly_differ_are_fitted(nonneg, lam):
    rng = np.random.default_rng(0)
    thin = rng.standard_normal((64, 10)) @ rng.standard_normal((10, 50))
    dictionary = thin + 1e-3 * rng.standard_normal((64, 50))
    dictionary = (dictionary / np.linalg.norm(dictionary, axis=0)).astype(np.float32)
    signals = rng.standard_normal((12, 64)).astype(np.float32)
    on = np.ones((12, 50), bool)
    found = sparse_code(signals, dictionary, lam, nonneg=nonneg, support=on)
    wide, codes = dictionary.astype(float), np.asarray(found.codes, float)
    for signal, code in zip(signals.astype(float), codes, strict=True):
        best = nnls(wide, signal)[0]
        if not nonneg:
            best = np.linalg.lstsq(wide, signal, rcond=None)[0]
        left, least = (np.linalg.norm(signal - wide @ z) for z in (code, best))
        assert left <= 1.001 * least + 1e-4 * np.linalg.norm(signal)
    close = np.array([[1, np.cos(1e-4)], [0, np.sin(1e-4)]])
    with jax.enable_x64(True):
        codes = sparse_code(close.sum(axis=1)[None], close, 0.0, support=np.ones((1, 2))).codes
    np.testing.assert_allclose(codes, 1, atol=1e-6)


def test_a_support_holds_whatever_the_scale_and_the_weights_form():
    signals, dictionary, on = draw((3, 4))
    for scale in (1e-12, 1, 1e14):
        given = scale * signals, scale * dictionary, 5 * scale**2
        code = functools.partial(sparse_code, *map(np.float32, given))
        best = np.asarray(code(support=on).objective)
        traced = jax.jit(lambda on, code=code: code(support=on))
        for found in (code(solver="fista", support=on), traced(on)):
            assert not np.asarray(found.codes)[~on].any() and found.converged.all()
            np.testing.assert_allclose(found.objective, best, rtol=3e-6)
    # Arrays of another device have the same codes.
    here = sparse_code(signals, dictionary, 5.0, support=on)
    there = sparse_code(signals, dictionary, 5.0, support=on, solver="working_set_xla")
    np.testing.assert_array_equal(here.codes, there.codes)
