"""Pursuits, a form a column, against loops in NumPy and SciPy that know no Gram matrix: they select
atoms, refit their values and prune.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import fixture, mark, raises

from sae_gap.core import least_gain, pursuit, screen_sizes
from sae_gap.loops import host, routines
from sae_gap.solvers import (
    gradient_pursuit,
    greedy,
    orthogonal_matching_pursuit,
    screened,
)

DIM = 24


def fit(signal, atoms, on):
    """Least squares on some atoms, and what they leave."""
    values = np.linalg.lstsq(atoms[:, on], signal, rcond=None)[0]
    return values, signal - atoms[:, on] @ values


def steps(signal, unit, size, signed=False, chosen=(), free=slice(None), least=-np.inf):
    """Orthogonal matching pursuit, until no correlation exceeds the least."""
    chosen = [*chosen]
    while len(chosen) < size:
        pull = fit(signal, unit, chosen)[1] @ unit
        score = np.full(unit.shape[1], -np.inf)
        score[free] = (abs(pull) if signed else pull)[free]
        score[chosen] = -np.inf
        if score.max() <= least:
            break
        chosen.append(int(score.argmax()))
    return chosen


def by_screens(signal, atoms, sizes, candidates, pull=None):
    """Screens by sorting, and values by SciPy's active set."""
    unit = atoms / norm(atoms, axis=0)
    chosen = []
    for size in sizes:
        pull = fit(signal, unit, chosen)[1] @ unit if pull is None else pull
        pull[chosen] = np.inf
        free = np.argsort(-pull, kind="stable")[:candidates]
        pull = None
        chosen = steps(signal, unit, size, False, chosen, free, 0)
    return nonnegative(signal, atoms, chosen)


def nonnegative(signal, atoms, on):
    codes = np.zeros(atoms.shape[1])
    places = np.arange(len(codes))[on]
    if places.size:
        codes[places] = scipy.optimize.nnls(atoms[:, places], signal)[0]
    return codes


def eliminated(signal, atoms, code):
    """The largest rise of the squared error up to the drop of each atom that is on: that of least
    rise goes, and the rest are fitted again.
    """
    on = np.flatnonzero(code)
    gains = np.zeros(len(code))
    most = 0
    while on.size:
        errors = [np.sum(fit(signal, atoms, on[on != j])[1] ** 2) for j in on]
        least = np.argmin(errors)
        gains[on[least]] = most = max(
            most, errors[least] - np.sum(fit(signal, atoms, on)[1] ** 2)
        )
        on = np.delete(on, least)
    return gains


def by_descent(signal, unit, size, nonneg):
    """Gradient pursuit: a step of steepest descent in the chosen codes."""
    chosen = []
    codes = np.zeros(unit.shape[1])
    for _ in range(size):
        pull = (signal - unit @ codes) @ unit
        free = np.setdiff1d(np.arange(len(codes)), chosen)
        chosen.append(free[np.argmax((pull if nonneg else abs(pull))[free])])
        slope = np.where(np.isin(np.arange(len(codes)), chosen), pull, 0)
        codes += slope @ slope / np.sum((unit @ slope) ** 2) * slope
        codes = codes.clip(0) if nonneg else codes
    return codes


def loops(x, atoms, options, threshold):
    given = *map(np.float32, (x, atoms)), *options, threshold
    chosen, codes, gains = host.screened_pursuit(*given)
    return host.spread(chosen, codes, len(atoms)), gains


def without_the_gram_matrix(*given):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pursuit, "WHOLE", 0)
        return loops(*given)


def xla(x, atoms, options, threshold):
    given = (
        jnp.asarray(atoms, jnp.float32),
        jnp.ones(len(atoms)),
        jnp.asarray(x, jnp.float32),
    )
    return screened._compiled(options, *given, None, jnp.float32(threshold))


def tensors(x, atoms, options, threshold):
    torch = pytest.importorskip("torch")
    batched = pytest.importorskip("sae_gap.torch").batched
    given = (torch.from_numpy(np.float32(part)) for part in (x, atoms))
    found = batched.screened_pursuit(*given, *options, threshold)
    chosen, codes, gains = (part.numpy() for part in found)
    return host.spread(chosen, codes, len(atoms)), gains


FORMS = mark.parametrize("form", [loops, without_the_gram_matrix, xla, tensors])
# Atoms, and the options: of several screens, one of all atoms, and fewer atoms than a screen asks
# for. With most dimensions pursued, values change their signs and are exchanged.
CASES = {
    "two screens": (60, (8, 2, 2)),
    "many atoms": (200, (6, 3, 2)),
    "more screens than atoms": (60, (2, 2, 4)),
    "one screen of all atoms": (60, (6, 10, 1)),
    "few atoms": (20, (4, 9, 2)),
    "exchanges": (90, (18, 3, 2)),
}


@FORMS
@mark.parametrize("case", CASES)
def test_atoms_are_selected_refitted_and_pruned(case, form):
    width, (k, breadth, screens) = CASES[case]
    rng = default_rng(3)
    atoms = rng.normal(size=(width, DIM)) + 0.5 * rng.normal(size=DIM)
    atoms /= norm(atoms, axis=1, keepdims=True)
    codes = rng.uniform(0.5, 2, (20, width)) * (rng.uniform(size=(20, width)) < 0.08)
    x = codes @ atoms + 0.3 * rng.normal(size=(20, DIM))
    x[0] = 0
    options = screen_sizes(k, breadth, screens, DIM, width)
    found, gains = map(np.asarray, form(x, atoms, options, 0.0))
    expected = np.array([by_screens(row, atoms.T, options[1], options[0]) for row in x])
    # A tie within rounding may go either way.
    same = ((found > 0) == (expected > 0)).all(axis=1)
    assert same.mean() >= 0.9 and (found >= 0).all() and not found[0].any()
    assert_allclose(found[same], expected[same], atol=2e-4)
    rises = np.array(
        [eliminated(row, atoms.T, code) for row, code in zip(x, found, strict=True)]
    )
    ordered = np.sort(rises, axis=1)[:, -gains.shape[1] :]
    assert_allclose(np.sort(gains, axis=1), ordered, atol=2e-3)
    least = float(least_gain(gains[1:], 19 * k / 2))
    pruned, again = map(np.asarray, form(x, atoms, options, least**0.5))
    assert_array_equal(again, gains)
    fits = [
        nonnegative(row, atoms.T, rise > least)
        for row, rise in zip(x, rises, strict=True)
    ]
    assert_allclose(pruned, fits, atol=2e-4)


@fixture(scope="module")
def close_atoms():
    """Groups of atoms, of cosines above 0.999, signals of a few, and what leaving out finds."""
    rng = default_rng(0)
    atoms = np.repeat(rng.normal(size=(12, DIM)), 8, axis=0) + 0.012 * rng.normal(
        size=(96, DIM)
    )
    atoms /= norm(atoms, axis=1, keepdims=True)
    codes = rng.uniform(0.5, 2, (30, 96)) * (rng.uniform(size=(30, 96)) < 0.05)
    x = codes @ atoms + 0.01 * rng.normal(size=(30, DIM))
    options = screen_sizes(16, 4, 2, DIM, 96)
    found = [by_screens(row, atoms.T, options[1], options[0]) for row in x]
    rises = [eliminated(row, atoms.T, code) for row, code in zip(x, found, strict=True)]
    pairs = zip(x, rises, strict=True)
    fits = np.array([nonnegative(row, atoms.T, rise > 1e-4) for row, rise in pairs])
    return (x, atoms, options, 0.01), fits @ atoms - x, np.sort(rises, axis=1)[:, -16:]


@FORMS
def test_very_close_atoms_are_pruned_as_by_leaving_each_out(form, close_atoms):
    (x, atoms, *options), left, rises = close_atoms
    codes, gains = map(np.asarray, form(x, atoms, *options))
    assert_allclose(np.square(codes @ atoms - x).sum(), np.square(left).sum(), 0.05)
    # Rounding decides between close atoms in a few rows.
    apart = abs(np.sort(gains, axis=1) - rises).max(axis=1)
    assert np.isfinite(gains).all() and np.quantile(apart, 0.8) < 0.05


@FORMS
@mark.parametrize("scale", [1e-12, 1e12])
def test_dependent_atoms_are_no_choice_and_rounding_chooses_none(form, scale):
    """Twins, an atom of zeros, and more atoms than dimensions; and signals of one atom each."""
    few = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.6, 0.8]])
    x = np.array([[3.0, 1.0], [0.0, 0.0], [-1.0, 4.0], [6.0, 8.0]])
    many = default_rng(0).normal(size=(60, DIM))
    many /= norm(many, axis=1, keepdims=True)
    cases = (x, few, (4, (1, 2)), [2, 0, 1, 1]), (2 * many, many, (24, (4, 8)), 1)
    for signals, atoms, options, counts in cases:
        codes = np.asarray(form(scale * signals, atoms, options, 0.0)[0]) / scale
        expected = signals.clip(0) if atoms is few else signals
        assert_allclose(codes @ atoms, expected, atol=1e-5)
        assert (np.count_nonzero(codes, axis=1) == counts).all()


def test_exchanges_of_tensors_do_not_go_round_in_circles():
    torch = pytest.importorskip("torch")
    solve = pytest.importorskip("sae_gap.torch").batched.nonnegative_least_squares
    rng = default_rng(1)
    own = rng.normal(size=(600, 1, 6)) + rng.normal(size=(600, 6, 6))
    x = rng.normal(size=(600, 6))
    codes, _ = solve(
        *map(torch.from_numpy, (x, own)), torch.ones(600, 6, dtype=torch.bool)
    )
    expected = [
        scipy.optimize.nnls(atoms.T, row)[0] for atoms, row in zip(own, x, strict=True)
    ]
    assert_allclose(codes, expected, atol=1e-6)


def each(x, atoms, size, nonneg=False):
    """A loop for each sample; otherwise all take their steps together."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(greedy, "_compiled")
        return np.asarray(orthogonal_matching_pursuit(x, atoms, size, nonneg=nonneg))


def at_once(x, atoms, size, nonneg=False):
    with pytest.MonkeyPatch.context() as patched:
        # A few samples at once.
        patched.setattr(greedy, "FLOATS", 20 * 12 * 10)
        code = jax.jit(
            lambda x: orthogonal_matching_pursuit(x, atoms, size, nonneg=nonneg)
        )
        return np.asarray(code(x))


WAYS = mark.parametrize("way", [each, at_once])


@mark.parametrize("nonneg", [False, True])
@mark.parametrize("precision", [np.float32, np.float64])
def test_orthogonal_and_gradient_pursuits(nonneg, precision):
    """On atoms of several tiles."""
    rng = default_rng(0)
    tolerance = 1e-4 if precision == np.float32 else 1e-10
    unit = rng.normal(size=(20, 1_100))
    unit /= norm(unit, axis=0)
    x = rng.normal(size=(100, 20)).astype(precision)
    expected = np.zeros((10, 1_100))
    for row, code in zip(x[::10].astype(float), expected, strict=True):
        chosen = steps(row, unit, 12, not nonneg)
        code[chosen] = fit(row, unit, chosen)[0]
    atoms = unit.T.astype(precision)
    with jax.enable_x64(precision == np.float64):
        for way in (each, at_once):
            found = way(x, atoms, 12, nonneg)
            assert found.dtype == precision
            assert_allclose(found[::10], expected, atol=tolerance)
        found = gradient_pursuit(x[:5], atoms, 6, nonneg=nonneg)
    expected = [by_descent(row, unit, 6, nonneg) for row in x[:5]]
    assert_allclose(found, expected, atol=tolerance)


@WAYS
def test_of_atoms_that_tie_the_first_is_chosen(way):
    width = 2 * routines.CHUNK + 6
    found = way(np.ones((width, width), np.float16), np.eye(width, dtype=np.int8), 40)
    assert found.dtype == np.float32
    assert_array_equal(found, [np.arange(width) < 40] * width)
    with raises(
        ValueError, match="k must be at most the 2 dimensions and the 9 latents"
    ):
        way(np.ones((4, 2)), np.ones((9, 2)), 3)


@WAYS
def test_dependent_atoms_have_codes_of_zero(way):
    rng = default_rng(0)
    # Thirty-six atoms of rank 8, which rounding to single precision hides, and four of zeros.
    atoms = (rng.normal(size=(40, 8)) @ rng.normal(size=(8, 16))).astype(np.float32)
    atoms[-4:] = 0
    atoms /= np.maximum(norm(atoms, axis=1, keepdims=True), 1e-9)
    x = rng.normal(size=(20, 16)).astype(np.float32)
    codes = way(x, atoms, 12)
    assert np.all(np.count_nonzero(codes, axis=1) == 8) and not codes[:, -4:].any()
    # Eight independent atoms span what all of them span.
    spanned = np.linalg.svd(atoms.astype(float))[2][:8]
    assert_allclose(codes @ atoms, x @ spanned.T @ spanned, atol=1e-4)
