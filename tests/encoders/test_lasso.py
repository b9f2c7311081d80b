"""The lasso encoder: certified optima in the frame of unit atoms, and the published iteration as it
stands; codes that are looked up; and codes on another encoder's support, by their conditions and by
NumPy's lstsq.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import fixture, mark

from sae_gap.core import Model, describe
from sae_gap.encoders import (
    FISTA,
    ISTA,
    Encoder,
    Lasso,
    LeastSquares,
    Lookup,
    LookupParameters,
    MatchingPursuit,
    OnSupport,
    ReLU,
    ThresholdingPursuit,
    TopK,
    unit_atoms,
)
from sae_gap.solvers import fista
from tests.solvers.test_least_squares import by_lstsq

LAM = 0.05


def framed(model, signals, unit=True):
    """The problem in double precision: targets, atoms, and the lengths that codes are scaled by."""
    atoms, norms = (
        unit_atoms(model.dictionary) if unit else (model.dictionary, np.ones(20))
    )
    return (
        np.asarray(part, np.float64) for part in (signals - model.bias, atoms, norms)
    )


def check_optimal(problem, found, on=True, nonneg=True):
    """The conditions of the optimum over the atoms that are on, in units of λ."""
    target, atoms, norms = problem
    codes = np.asarray(found.codes * norms, np.float64)
    rest = target - codes @ atoms.T
    pull = rest @ atoms / LAM
    inactive = np.where(
        on, np.maximum(pull if nonneg else abs(pull), 1) - 1, codes != 0
    )
    assert np.where(codes != 0, abs(pull - np.sign(codes)), inactive).max() < 1e-2
    achieved = 0.5 * np.sum(rest**2, axis=1) + LAM * abs(codes).sum(axis=1)
    assert_allclose(achieved, found.objective, rtol=1e-4)
    assert not nonneg or (codes >= 0).all()


@mark.parametrize(("nonneg", "unit"), [(True, True), (False, True), (True, False)])
def test_codes_are_optimal_and_in_units_of_the_given_atoms(
    model, signals, nonneg, unit
):
    found = Lasso(LAM, nonneg=nonneg, unit_atoms=unit).infer(model, signals)
    check_optimal(framed(model, signals, unit), found, True, nonneg)
    assert found.converged.all() and (found.codes < 0).any() == (not nonneg)
    assert (found.gap <= 1e-6 * found.objective).all()


@mark.parametrize(
    ("kind", "start", "unit"),
    [(FISTA, None, False), (FISTA, MatchingPursuit(3), True), (ISTA, ReLU(), False)],
)
def test_the_published_form_is_exactly_a_hundred_iterations(
    model, signals, kind, start, unit
):
    encoder = kind(LAM, start, unit_atoms=unit)
    target, atoms, norms = (np.float32(part) for part in framed(model, signals, unit))
    init = np.zeros((len(signals), 20), np.float32)
    if start:
        init = (start(model, signals) * norms).clip(0)
    expected = fista.fixed(
        target, atoms, LAM, init, iterations=100, momentum=kind is FISTA
    )
    found = encoder.infer(model, signals)
    assert_allclose(found.codes * norms, expected, atol=1e-4)
    assert (found.iterations == 100).all()


def test_iterations_keep_the_keys_that_they_had_as_options_of_the_lasso():
    fields = [
        "lam",
        "start",
        "unit_atoms",
        "nonneg",
        "tol",
        "max_iterations",
        "momentum",
    ]
    told = describe(ISTA(0.3, iterations=5))
    assert (told["class"], told["version"]) == ("sae_gap.Lasso", 1)
    assert [told[name] for name in fields] == [0.3, None, True, True, None, 5, False]
    assert describe(Lasso()).keys() == told.keys() == {"class", "version", *fields}


@mark.parametrize(("lam", "rounds"), [(LAM, 1), (LAM, 2), (0.4, 2)])
def test_hard_thresholding(model, signals, lam, rounds):
    """By hand from the lasso's codes, where no score is close to its threshold."""
    target, atoms, norms = framed(model, signals)
    codes = Lasso(lam)(model, signals) * norms
    clear = np.full(len(target), True)
    for _ in range(rounds):
        rest = target - codes @ atoms.T
        least = np.sqrt(2 * np.log(20) * np.mean(rest**2, axis=1, keepdims=True))
        score = rest @ atoms + codes
        limit = np.maximum(lam, least)
        clear &= (abs(score - limit) > 1e-4).all(axis=1)
        codes = by_lstsq(target, atoms, score > limit).clip(0)
    assert clear.mean() > 0.9 and (least > LAM).any() and (least < 0.4).any()
    found = ThresholdingPursuit(lam, rounds)(model, signals) * norms
    assert_allclose(found[clear], codes[clear], rtol=1e-3, atol=1e-4)


def test_known_signals_have_their_codes_in_any_order_and_others_the_lasso_s(task):
    rng = default_rng(0)
    # A dimension of zeros is padding, of either sign.
    y = jnp.pad(task.id.signals, ((0, 0), (0, 1)))
    codes = jnp.float32(rng.random((100, 20)))
    atoms = jnp.pad(2 * task.dictionary, ((0, 1), (0, 0)))
    model = Model(atoms, jnp.full(13, 0.1).at[12].set(0), LookupParameters(y, codes))
    order = rng.permutation(100)
    asked = y[order].at[:, 12].set(-0.0)
    assert_array_equal(Lookup()(model, asked), codes[order])
    near = asked.at[3, 5].set(jnp.nextafter(asked[3, 5], 9.0))
    # 0.1 · 12 / (2 · 20)
    expected = codes[order].at[3].set(Lasso(0.03)(model, near[3:4])[0])
    assert_allclose(Lookup(0.1)(model, near), expected, atol=1e-5)


class Dense(Encoder):
    """Nearly all latents on, whatever the signal."""

    def __call__(self, model, signals):
        draws = jax.random.uniform(
            jax.random.key(1), (len(signals), model.decoder.shape[1])
        )
        return jnp.where(draws < 0.9, draws, 0)


@fixture(scope="module", params=[TopK(3), MatchingPursuit(3), Dense()], ids=str)
def encoder(request):
    return request.param


def test_the_values_are_the_best_on_the_support(model, signals, encoder):
    begun = encoder(model, signals)
    found = OnSupport(encoder, LAM).infer(model, signals, begun)
    check_optimal(framed(model, signals), found, abs(begun) > 1e-4)


@mark.parametrize("make", [OnSupport, LeastSquares])
def test_a_latent_is_on_above_the_published_threshold(model, signals, make):
    begun = (
        jnp.zeros((len(signals), 20)).at[:, 6:9].set(jnp.array([1e-4, 1.1e-4, -1.1e-4]))
    )
    codes = np.asarray(make(Dense()).infer(model, signals, begun).codes)
    assert {*np.flatnonzero(codes.any(axis=0))} == {7, 8}


def test_least_squares_against_numpy_sample_by_sample(model, signals, encoder):
    begun = encoder(model, signals)
    found = LeastSquares(encoder).infer(model, signals, begun)
    on = abs(np.asarray(begun)) > 1e-4
    target, atoms, _ = framed(model, signals, unit=False)
    expected = by_lstsq(target, atoms, on)
    assert (expected < 0).any() and not hasattr(found, "gap")
    free = OnSupport(encoder, 0.0, nonneg=False).infer(model, signals, begun)
    assert (np.asarray(free.codes) < 0).any() and not hasattr(free, "gap")
    # Single precision cannot solve what is as good as dependent.
    fine = np.array(
        [not where.any() or np.linalg.cond(atoms[:, where]) < 300 for where in on]
    )
    error = abs(found.codes - expected.clip(0))[fine].max()
    assert fine.mean() > 0.9 and error < 5e-3 * abs(expected[fine]).max()
