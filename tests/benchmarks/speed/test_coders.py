"""Every coder solves the problem it says it solves, as an independent computation in double
precision tells.
"""

import sys
import types

import numpy as np
import pytest
import scipy.optimize
import sklearn.linear_model

from benchmarks.speed import coders, problems, scores

# Worst relative gaps.
REACHED = {
    **dict.fromkeys(("working_set", "jitted"), 1.1e-6),
    "spams": 1e-5,
    "spams_double": 1e-8,
    "celer": 1e-5,
    "skglm": 1e-5,
}


@pytest.fixture(scope="module")
def problem():
    return problems.draw(problems.Cell(30, 3, 12, 0.1))


@pytest.fixture(scope="module")
def optimum(problem):
    """The least objectives, by L-BFGS-B with bounds."""

    def solve(signal):
        def value(z):
            rest = signal - problem.dictionary @ z
            least = 0.5 * rest @ rest + problem.lam * z.sum()
            return least, -problem.dictionary.T @ rest + problem.lam

        stop = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10}
        given = {"jac": True, "bounds": [(0, None)] * 30, "options": stop}
        return scipy.optimize.minimize(value, np.zeros(30), **given).fun

    return np.array([solve(signal.astype(float)) for signal in problem.signals])


@pytest.fixture
def stand_ins(monkeypatch):
    """Celer and skglm have the interface of scikit-learn, whose solver takes their place; it notes
    how it was made.
    """
    made = []

    class Lasso(sklearn.linear_model.Lasso):
        def __init__(self, **options):
            made.append(options)
            super().__init__(**options)

    for name in ("celer", "skglm"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(Lasso=Lasso))
    return made


@pytest.mark.parametrize("name", REACHED)
def test_a_solver_of_the_lasso_reaches_the_optimum(name, problem, optimum, stand_ins):
    coder = coders.CODERS[name]
    codes = coders.codes_of(coder.prepare(problem)())
    value, gap = scores.score(problem.signals, problem.dictionary, codes, problem.lam)
    assert codes.shape == (12, 30) and codes.min() >= 0
    assert (gap / value).max() <= REACHED[name]
    np.testing.assert_allclose(value, optimum, rtol=REACHED[name] + 1e-7)
    assert len(stand_ins) == (name in ("celer", "skglm"))
    assert all(not made["fit_intercept"] for made in stand_ins)


def test_every_coder_is_tested():
    assert coders.CODERS.keys() == REACHED.keys()
