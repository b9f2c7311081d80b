from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.linalg
from scipy.optimize import nnls

import sae_gap
from sae_gap.solvers import blocks
from sae_gap.solvers import polish as module

from .test_blocks import coherent, solve


class Polished(NamedTuple):
    codes: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    converged: np.ndarray


def polish(signals, atoms, row, column, codes, *, tol, nonneg):
    """Each of several samples by itself, with dense codes."""
    found = []
    for signal, weight, code in zip(signals, row * column, codes, strict=True):
        on = np.flatnonzero(code)
        support, values, value, gap = module.polish(signal, atoms, weight, on, code[on], nonneg=nonneg)
        dense = np.zeros_like(code)
        dense[support] = values
        found.append((dense, value, gap, value > 0 and gap <= tol * value))
    return Polished(*map(np.array, zip(*found, strict=True)))


def problem(nonneg, *, dtype=np.float64):
    """Coherent atoms, weights of each sample and each atom, and the minimiser by an independent solver."""
    signals, dictionary = coherent(0, 6, 20, 48, 5, cluster=8)
    signals, dictionary = signals.astype(np.float64), dictionary.astype(np.float64)
    row, column = np.linspace(0.01, 0.03, 6)[:, None], np.linspace(0.5, 2, 48)[None]
    both = dictionary if nonneg else np.concatenate([dictionary, -dictionary], axis=1)
    price = np.concatenate([column] * (both.shape[1] // 48), axis=1)
    # ½‖y − D z‖² + λᵀz over z ≥ 0 is least squares once λ is an inner product with every atom, which one long dimension makes.
    long = 1e5
    exact = [
        nnls(np.vstack([both, lam * price / long]), np.append(signal, -long), maxiter=10_000)[0]
        for signal, lam in zip(signals, row, strict=True)
    ]
    exact = [codes if nonneg else codes[:48] - codes[48:] for codes in exact]
    return signals.astype(dtype), dictionary.T, row, column, np.stack(exact)


def objective(signals, atoms, row, column, codes):
    rest = signals.astype(np.float64) - codes.astype(np.float64) @ atoms
    return 0.5 * np.sum(rest**2, axis=1) + np.sum(row * column * np.abs(codes), axis=1)


@pytest.mark.parametrize("nonneg", [True, False])
def test_a_support_that_is_wrong_here_and_there_is_mended(nonneg):
    signals, atoms, row, column, exact = problem(nonneg)
    near = exact.copy()
    for i, codes in enumerate(near):
        on = np.flatnonzero(codes)
        codes[on[:2]] = 0
        codes[np.flatnonzero(exact[i] == 0)[:2]] = 0.1
        codes[on[2:]] *= 1.05
    found = polish(signals, atoms, row, column, near, tol=1e-9, nonneg=nonneg)
    assert found.converged.all()
    np.testing.assert_allclose(found.codes, exact, atol=1e-4)
    best = objective(signals, atoms, row, column, exact)
    value = objective(signals, atoms, row, column, found.codes)
    np.testing.assert_allclose(found.objective, value, rtol=1e-12)
    # The independent solver is good to about 1e-8.
    assert np.all(value <= best * (1 + 1e-7)) and np.all(found.gap <= 1e-9 * value)


def test_the_gap_of_rounded_codes_bounds_what_rounding_costs():
    signals, atoms, row, column, exact = problem(True, dtype=np.float32)
    found = polish(signals, atoms, row, column, exact.astype(np.float32), tol=1e-6, nonneg=True)
    double = polish(signals.astype(np.float64), atoms, row, column, exact, tol=1e-9, nonneg=True)
    assert found.codes.dtype == np.float32 and found.converged.all()
    excess = objective(signals, atoms, row, column, found.codes) - double.objective
    assert np.all(excess >= 0) and np.all(found.gap >= 0.999 * excess - 1e-16) and np.all(found.gap <= 1e-9)


def test_what_cannot_be_solved_is_not_certified():
    signals, atoms, row, column, exact = problem(True)
    twins = np.concatenate([atoms, atoms]), np.concatenate([column, column], axis=1)
    both = np.concatenate([exact, exact], axis=1) / 2
    found = polish(signals, twins[0], row, twins[1], 1.1 * both, tol=1e-9, nonneg=True)
    assert not found.converged.any()


def test_single_precision_that_has_settled_takes_no_more_rounds(monkeypatch):
    polished, tried = [], blocks.polish

    def watched(*args, **options):
        found = tried(*args, **options)
        polished.append(found[3] <= 1e-6 * found[2])
        return found

    monkeypatch.setattr(blocks, "polish", watched)
    pose = blocks._pose

    def single(dictionary, *args, **options):
        assert dictionary.dtype == np.float32, "what rounding hides is found on the support at hand"
        return pose(dictionary, *args, **options)

    monkeypatch.setattr(blocks, "_pose", single)
    signals, dictionary = coherent(3, 60, 96, 768, 16)
    lam = 0.001 * np.median(np.max(signals @ dictionary, axis=1))
    found = solve(signals, dictionary, lam)
    assert bool(found.converged.all()) and polished and all(polished)
    # Some ten rounds lead to the optimum; waiting for rounding to be kind took three times as many.
    assert int(found.iterations.max()) <= 20 and float(found.iterations.mean()) <= 10
    jax.tree.map(np.testing.assert_array_equal, solve(signals, dictionary, lam, threads=1), found)
    double = sae_gap.sparse_code(signals[:20], dictionary, lam, tol=1e-6)
    np.testing.assert_allclose(found.objective[:20], double.objective, rtol=2e-6)


def test_an_objective_that_underflows_certifies_nothing():
    signals, atoms, row, column, exact = problem(True)
    tiny = 1e-170
    found = polish(tiny * signals, atoms, tiny * row, column, 1.1 * tiny * exact, tol=1e-9, nonneg=True)
    assert (found.objective == 0).all() and not found.converged.any()


def test_an_atom_in_use_is_not_taken_in_again_where_rounding_is_more_than_its_weight():
    """Least squares but for weights of 1e-9, in which correlations that equal them are off by some 1e-16."""
    rng = np.random.default_rng(2)
    atoms = rng.standard_normal((8, 20))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    exact = rng.uniform(1, 2, (6, 8))
    # Beside the atoms' span, so that the objective is not as small as the weights.
    beside = rng.standard_normal((6, 20))
    beside -= beside @ np.linalg.pinv(atoms) @ atoms
    found = polish(exact @ atoms + beside, atoms, np.full((6, 1), 1e-9), np.ones((1, 8)), 1.01 * exact, tol=1e-6, nonneg=True)
    assert found.converged.all()
    np.testing.assert_allclose(found.codes, exact, atol=1e-7)


def counted(monkeypatch):
    """The calls of the solver of a support, which are as many as the steps."""
    calls, solve = [], scipy.linalg.cho_solve
    monkeypatch.setattr(scipy.linalg, "cho_solve", lambda *args, **options: calls.append(0) or solve(*args, **options))
    return calls


def test_of_codes_that_fall_only_the_one_that_vanishes_goes(monkeypatch):
    """Without the first of three atoms, the second is wanted, which with it is not."""
    gram = np.array([[1, -0.75, 0.21], [-0.75, 1, -0.58], [0.21, -0.58, 1]])
    atoms, weight, pull = np.linalg.cholesky(gram), 0.01, np.array([-1.36, 0.41, 0.41])
    signal, begun = np.linalg.solve(atoms, pull + weight), np.array([0.1, 1, 1])
    aim = np.linalg.solve(gram, pull)
    assert (aim[:2] < 0).all()
    calls = counted(monkeypatch)
    found = polish(signal[None], atoms, np.full((1, 1), weight), np.ones((1, 3)), begun[None], tol=1e-9, nonneg=True)
    assert found.converged.all() and found.codes[0, 0] == 0
    np.testing.assert_allclose(found.codes[0, 1:], np.linalg.solve(gram[1:, 1:], pull[1:]), rtol=1e-9)
    assert len(calls) == 2


def test_an_atom_that_only_rounding_brought_in_ends_the_steps(monkeypatch):
    """As rounding does, a limit below zero takes in an atom that may stay out; it would come and go to the last step."""
    signals, atoms, row, column, exact = problem(True)
    monkeypatch.setattr(module, "_EXCESS", -1.0)
    calls = counted(monkeypatch)
    found = polish(signals[:1], atoms, row[:1], column, exact[:1], tol=1e-9, nonneg=True)
    assert found.converged.all() and len(calls) == 2
    np.testing.assert_allclose(found.codes, exact[:1], atol=1e-4)
