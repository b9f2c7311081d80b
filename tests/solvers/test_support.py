"""Codes on given supports, against SciPy and NumPy in double precision, and against the lasso on
the atoms of the support alone.
"""

import functools

import jax
import numpy as np
from numpy import array, asarray, float32
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark
from scipy.optimize import nnls

from sae_gap.solvers import sparse_code

from .problems import SIGNS

# The crowded ones hold more atoms than there are dimensions.
SIZES = (0, 1, 2, 5, 7, 11, 12, 15, 16)
CROWDED = tuple(range(17, 33))


def draw(sizes, kind="plain"):
    """Signals, atoms of lengths from .1 to 10, one of zeros and two alike, and supports of these
    sizes.
    """
    dim = 12
    width = 40
    rng = default_rng(0)
    dictionary = rng.normal(size=(dim, width))
    if kind == "coherent":
        dictionary += 4 * rng.normal(size=(dim, 1))
    if kind == "thin":
        dictionary = 1e-3 * dictionary + rng.normal(size=(dim, 4)) @ rng.normal(
            size=(4, width)
        )
    dictionary = (dictionary * 10 ** rng.uniform(-1, 1, width)).astype(float32)
    dictionary[:, 3], dictionary[:, 8] = 0, 2 * dictionary[:, 9]
    on = np.argsort(rng.random((len(sizes), width)), axis=1) < array(sizes)[:, None]
    codes = on * rng.normal(size=on.shape)
    signals = 100 * rng.normal(size=(len(on), dim)) + codes @ dictionary.T
    return signals.astype(float32), dictionary, on


@SIGNS
@mark.parametrize(
    ("kind", "lam", "near"),
    [("plain", 0, 1e-6), ("coherent", 0, 1e-6), ("thin", 1e-6, 1e-3)],
)
def test_least_squares_are_those_of_scipy_and_numpy(kind, lam, near, nonneg):
    signals, dictionary, on = draw((*SIZES, *CROWDED, 7, 7), kind)
    signals[-1] = 0
    dictionary[:, on[-2]] = 0
    codes = asarray(
        sparse_code(signals, dictionary, lam, nonneg=nonneg, support=on).codes
    )
    for y, row, code in zip(
        signals.astype(float), on, codes.astype(float), strict=True
    ):
        atoms = dictionary[:, row].astype(float)
        best = np.zeros(0)
        if row.any():
            best = (
                nnls(atoms, y)[0]
                if nonneg
                else np.linalg.lstsq(atoms, y, rcond=None)[0]
            )
        left, least = (np.sum((y - atoms @ z) ** 2) for z in (code[row], best))
        assert left <= least * (1 + near) + 0.004 * near * np.sum(y**2)
    assert not codes[~on].any() and not codes[:, 3].any() and not codes[-2:].any()
    assert (codes < 0).any() != nonneg


@SIGNS
def test_weights_count_where_the_inverse_is_lost(nonneg):
    signals, dictionary, on = draw((*SIZES, *CROWDED), "thin")
    lam = np.linspace(5e-4, 6e-3, len(on))
    found = sparse_code(signals, dictionary, lam, nonneg=nonneg, support=on)
    alone = [
        sparse_code(y[None], dictionary * row, weight, nonneg=nonneg).objective[0]
        for y, row, weight in zip(signals, on, lam, strict=True)
    ]
    assert (asarray(found.objective) <= 1.0001 * array(alone)).all()


def test_atoms_that_hardly_differ_are_told_apart():
    close = array([[1, np.cos(1e-4)], [0, np.sin(1e-4)]])
    with jax.enable_x64(True):
        codes = sparse_code(
            close.sum(axis=1)[None], close, 0.0, support=np.ones((1, 2))
        ).codes
    assert_allclose(codes, 1, atol=1e-6)


@SIGNS
@mark.parametrize("scale", [1e-12, 1e14])
def test_the_lasso_is_that_of_the_atoms_alone(nonneg, scale):
    signals, dictionary, on = draw(SIZES)
    lam = np.linspace(5, 60, len(signals))
    given = map(float32, (signals * scale, dictionary * scale, lam * scale**2))
    code = functools.partial(sparse_code, *given, nonneg=nonneg)
    found = code(support=on)
    iterated = code(solver="fista", support=on)
    assert (asarray(found.gap) <= 1e-7 * asarray(found.objective)).all()
    assert found.converged.all() and iterated.converged.all()
    for y, row, weight, value in zip(signals, on, lam, found.objective, strict=True):
        alone = sparse_code(
            y[None], np.where(row, dictionary, 0), weight, nonneg=nonneg
        )
        assert_allclose(value / scale**2, alone.objective[0], rtol=3e-6)
    # Traced supports have the same bits; iterations are as good.
    traced = jax.jit(lambda on: code(support=on))(on)
    jax.tree.map(assert_array_equal, traced, found)
    assert_allclose(iterated.objective, found.objective, rtol=3e-6)
    assert not asarray(iterated.codes)[~on].any()


def test_samples_of_larger_supports_change_no_other():
    # Of these the last needs more slots.
    signals, dictionary, on = draw((*SIZES, 28))
    found = sparse_code(signals, dictionary, 7.0, support=on.tolist(), sparse=True)
    fewer = sparse_code(signals[:-1], dictionary, 7.0, support=on[:-1])
    assert_array_equal(found.codes.toarray()[:-1], fewer.codes)
