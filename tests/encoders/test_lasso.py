"""The lasso encoder: certified optima in the frame of unit atoms, and the published iteration as it
stands.
"""

import numpy as np
import pytest

from sae_gap.core import lasso_problem
from sae_gap.encoders import Lasso, MatchingPursuit, ReLU, unit_atoms

LAM = 0.05


@pytest.fixture(scope="module")
def optimum(model, signals):
    return Lasso(LAM).infer(model, signals)


def violation(model, signals, codes, nonneg=True):
    """How far codes on unit atoms are from the conditions of the optimum, in units of λ."""
    atoms, norms = unit_atoms(model.dictionary)
    codes, atoms = np.asarray(codes * norms, np.float64), np.asarray(atoms, np.float64)
    pull = (np.asarray(signals - model.bias, np.float64) - codes @ atoms.T) @ atoms / LAM
    inactive = np.maximum(pull if nonneg else np.abs(pull), 1) - 1
    return np.where(codes != 0, np.abs(pull - np.sign(codes)), inactive).max()


@pytest.mark.parametrize("nonneg", [True, False])
def test_codes_are_optimal_on_unit_atoms_and_in_units_of_the_given_ones(model, signals, nonneg):
    found = Lasso(LAM, nonneg=nonneg).infer(model, signals)
    assert found.converged.all() and (found.codes < 0).any() == (not nonneg)
    assert violation(model, signals, found.codes, nonneg) < 1e-2
    atoms, norms = unit_atoms(model.dictionary)
    achieved = lasso_problem.objective(signals - model.bias, atoms, found.codes * norms, LAM)
    np.testing.assert_allclose(achieved, found.objective, rtol=1e-4)
    assert (found.gap <= 1e-6 * found.objective).all()


def test_without_unit_atoms_the_weight_is_that_of_the_given_ones(model, signals, optimum):
    found = Lasso(LAM, unit_atoms=False).infer(model, signals)
    achieved = lasso_problem.objective(signals - model.bias, model.dictionary, found.codes, LAM)
    np.testing.assert_allclose(found.objective, achieved, rtol=1e-4)
    others = lasso_problem.objective(signals - model.bias, model.dictionary, optimum.codes, LAM)
    assert (others >= achieved * (1 - 1e-5)).all() and (others > achieved * 1.01).any()


@pytest.mark.parametrize("start", [ReLU(), MatchingPursuit(3)], ids=["non-negative", "signed"])
def test_a_warm_start_ends_where_a_cold_one_does(model, signals, optimum, start):
    found = Lasso(LAM, start).infer(model, signals)
    assert found.converged.all()
    np.testing.assert_allclose(found.codes, optimum.codes, atol=2e-4)
    np.testing.assert_allclose(found.objective, optimum.objective, rtol=1e-5)


def hundred_iterations(signals, dictionary, start, momentum=True):
    """FISTA as published: textbook steps of 1 / ‖D‖₂², from a start, without a restart or a
    stop.
    """
    rate = 1 / np.linalg.norm(dictionary, 2) ** 2
    codes, point, t = start, start, 1.0
    for _ in range(100):
        new = np.maximum(point + rate * ((signals - point @ dictionary.T) @ dictionary - LAM), 0)
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2 if momentum else 1.0
        point = new + (t - 1) / following * (new - codes)
        codes, t = new, following
    return codes


@pytest.mark.parametrize(
    ("start", "momentum", "unit"),
    [(None, True, False), (ReLU(), True, False), (None, False, False), (ReLU(), True, True)],
)
def test_the_published_form_is_exactly_a_hundred_iterations(model, signals, start, momentum, unit):
    options = {"tol": None, "unit_atoms": unit, "momentum": momentum}
    encoder = Lasso(LAM, start, max_iterations=100, **options)
    atoms, norms = unit_atoms(model.dictionary) if unit else (model.dictionary, np.ones(20))
    init = (
        np.zeros((100, 20)) if start is None else np.asarray(start(model, signals) * norms, float)
    )
    centred = np.asarray(signals - model.bias, float)
    expected = hundred_iterations(centred, np.asarray(atoms, float), init, momentum)
    found = encoder.infer(model, signals)
    np.testing.assert_allclose(found.codes * norms, expected, atol=1e-4)
    # It tells one iteration more or less apart, and is not the optimum.
    one_more = Lasso(LAM, start, max_iterations=101, **options)(model, signals) * norms
    assert np.abs(one_more - expected).max() > 1e-3 / (1 if momentum else 30)
    assert (found.iterations == 100).all()
