"""The amortisation gap against scikit-learn's lasso, and its identities."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import Lasso as SklearnLasso

from sae_gap.core import Model, Solution, Split, Task
from sae_gap.encoders import Affine, Lasso, ReLU, TopK, unit_atoms
from sae_gap.metrics import Inferred, gap
from tests.saes.examples import transcoder

LAM = 0.1


def objective(signal, dictionary, code, lam):
    """The lasso objective of one sample, by loops."""
    rest = [
        y - sum(d * z for d, z in zip(row, code, strict=True))
        for y, row in zip(signal, dictionary, strict=True)
    ]
    return 0.5 * sum(r * r for r in rest) + lam * sum(abs(z) for z in code)


def solution(objectives, gaps=None, codes=None):
    objectives = jnp.asarray(objectives)
    n = len(objectives)
    return Solution(
        codes=jnp.zeros((n, 1)) if codes is None else jnp.asarray(codes),
        objective=objectives,
        gap=jnp.zeros(n) if gaps is None else jnp.asarray(gaps),
        iterations=jnp.zeros(n, int),
        converged=jnp.ones(n, bool),
    )


def problem(seed=0, positive=True):
    """Signals, a unit dictionary, and scikit-learn's optimum on it."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((8, 14))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    signals = (rng.random((6, 14)) * (rng.random((6, 14)) < 0.3)) @ dictionary.T
    peer = SklearnLasso(
        alpha=LAM / 8, positive=positive, fit_intercept=False, tol=1e-12, max_iter=100_000
    )
    codes = np.array([peer.fit(dictionary, signal).coef_ for signal in signals])
    optimum = [
        objective(signal, dictionary, code, LAM)
        for signal, code in zip(signals, codes, strict=True)
    ]
    return signals, dictionary, codes, solution(optimum)


def test_gap_is_the_mean_difference_of_objectives():
    signals, dictionary, best, reference = problem()
    codes = np.maximum(best + 0.1 * np.random.default_rng(1).standard_normal(best.shape), 0)
    lost = [objective(*pair, LAM) for pair in zip(signals, [dictionary] * 6, codes, strict=True)]
    optimum = np.asarray(reference.objective)
    gaps = np.array([1e-6, 8e-6, 4e-6, 0.0, 0.0, 2e-6]) * optimum
    found = gap.objective_gap(signals, dictionary, codes, solution(optimum, gaps), LAM)
    wanted = {"objective": np.mean(lost), "gap": np.mean(lost - optimum), "certificate": 8e-6}
    wanted["relative_gap"] = wanted["gap"] / optimum.mean()
    assert found == pytest.approx(wanted, rel=1e-4)
    # Signed codes can beat an optimum without signs, and not their own.
    _, _, codes, signed = problem(positive=False)
    assert gap.objective_gap(signals, dictionary, codes, reference, LAM)["gap"] < -1e-4
    found = gap.objective_gap(signals, dictionary, codes, signed, LAM)
    assert found["gap"] == pytest.approx(0, abs=1e-6)


def test_scores_of_atoms_of_any_length_by_hand():
    signals, dictionary, best, reference = problem()
    lengths = np.linspace(0.5, 3, dictionary.shape[1])
    lengths[1] = 0
    codes = np.where(np.arange(len(lengths)) % 3, best + 0.1, 0).astype(np.float32)
    model = Model(jnp.asarray(dictionary * lengths), jnp.full(len(dictionary), 0.1))
    task = Task(*[Split(jnp.asarray(signals))] * 3, width=len(lengths))

    def measured(held):
        return gap.measure(
            Inferred(
                task,
                model,
                {"id": held, "ood": held},
                {"id": reference, "ood": reference},
                LAM,
                "strict",
            )
        )

    found = measured(codes)
    assert found["gap_id"] > 0
    rest = signals - 0.1 - codes @ (dictionary * lengths).T
    assert found["mse_id"] == pytest.approx(np.mean(rest**2), rel=1e-4)
    value = 0.5 * np.sum(rest**2, axis=1) + LAM * np.abs(codes * lengths).sum(axis=1)
    assert found["l0_above_id"] == np.mean(np.sum(np.abs(codes) > 0.01, axis=1))
    assert found["objective_ood"] == pytest.approx(value.mean(), rel=1e-4)


def test_zero_signals():
    signals, dictionary, codes, _ = problem()
    nothing, reference = np.zeros_like(signals), solution(np.zeros(6))
    none = {"objective": 0, "gap": 0, "relative_gap": 0, "certificate": 0}
    assert gap.objective_gap(nothing, dictionary, 0 * codes, reference, LAM) == none
    assert gap.objective_gap(nothing, dictionary, codes, reference, LAM)["relative_gap"] == np.inf


def sae(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    dictionary = scale * rng.standard_normal((5, 8)).astype(np.float32)
    weights = rng.standard_normal((5, 8)).astype(np.float32)
    model = Model(
        jnp.asarray(dictionary),
        jnp.asarray(rng.standard_normal(5), jnp.float32),
        Affine.create(jnp.asarray(weights)),
        ReLU(),
    )
    return model, jnp.asarray(rng.standard_normal((6, 5)), jnp.float32)


def test_amortisation_gap_of_a_model_against_scikit_learn():
    model, signals = sae()
    found = gap.amortisation_gap(model, signals, LAM)
    unit, norms = (np.asarray(part, np.float64) for part in unit_atoms(model.dictionary))
    target = np.asarray(signals - model.bias, np.float64)
    best = sparse_encode(
        target, unit.T, algorithm="lasso_cd", alpha=LAM, positive=True, max_iter=100_000
    )
    codes = np.maximum((target @ np.asarray(model.encoder.weight, np.float64)), 0) * norms

    def objective(codes):
        return 0.5 * np.sum((target - codes @ unit.T) ** 2, axis=1) + LAM * np.abs(codes).sum(
            axis=1
        )

    np.testing.assert_allclose(found.gap, objective(codes) - objective(best), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.relative, found.gap / objective(best), rtol=1e-3)
    assert (found.optimum.gap <= 1e-6 * found.optimum.objective).all()


def test_a_row_whose_squares_float32_cannot_hold_counts_as_zero():
    model, signals = sae()
    # Exact powers of two: the codes of such an encoder scale with the rows.
    model = dataclasses.replace(model, bias=jnp.zeros(5))
    scale = jnp.asarray([1, 2.0**-50, 2.0**-60, 2.0**-66, 2.0**-74, 2.0**-110])
    found = gap.amortisation_gap(model, scale[:, None] * signals, scale * LAM)
    plain = gap.amortisation_gap(model, signals, LAM).relative
    np.testing.assert_allclose(found.relative[:2], plain[:2], rtol=1e-4)
    np.testing.assert_array_equal(found.relative[2:], 0)


@pytest.mark.parametrize(
    ("change", "signals", "lam", "message"),
    [
        ({"encode": None}, slice(None), LAM, "names no encoder"),
        ({"dictionary": None}, slice(None), LAM, "no dictionary"),
        ({}, (slice(None), slice(4)), LAM, "input_dim 5"),
        ({"bias": jnp.full(5, jnp.nan)}, slice(None), LAM, "finite"),
        ({}, slice(None), -LAM, "negative"),
    ],
)
def test_amortisation_gap_says_what_it_lacks(change, signals, lam, message):
    model, given = sae()
    with pytest.raises(ValueError, match=message):
        gap.amortisation_gap(dataclasses.replace(model, **change), given[signals], lam)


def test_the_own_codes_of_a_transcoder_read_its_inputs():
    model, x = transcoder(TopK(3))
    y = np.random.default_rng(0).normal(1, 2, size=(24, 6)).astype("f")
    signals = model.signals(y, x)
    found = gap.amortisation_gap(model, signals, 0.1, inputs=x)
    # The encoder by hand, on a model of the same dictionary that ignores inputs.
    own = np.asarray(model.encode(model, x))
    plain = Model(model.dictionary, model.bias, encode=lambda model, signals: own)
    again = gap.amortisation_gap(plain, signals, 0.1)
    np.testing.assert_allclose(found.gap, again.gap, rtol=1e-6)
    assert (found.gap > 0).all()
    for of, inputs in ((model, None), (model, x[:3]), (plain, x)):
        with pytest.raises(ValueError, match="one row for each signal"):
            gap.amortisation_gap(of, signals, 0.1, inputs=inputs)
    with pytest.raises(ValueError, match="signals must have the shape"):
        gap.amortisation_gap(model, signals, 0.1, inputs=x[:, 1:])
    # A solver in the encoder's place reads no inputs.
    best = gap.amortisation_gap(model, signals, 0.1, encode=Lasso(0.1))
    assert best.gap.max() <= 1e-4 * best.optimum.objective.max()


@pytest.mark.parametrize("large", [1, 1e4])
def test_a_clear_sign_is_refused_and_a_trifle_is_not(large):
    """Nor does a sample that is so much larger hide the signs of the others."""
    model, signals = sae()
    plain = gap.amortisation_gap(model, signals, LAM).gap
    scale = jnp.ones((len(signals), 1)).at[0].set(large)
    rows = scale * (signals - model.bias) + model.bias
    sign = jnp.full((len(signals), 1), -1.0).at[0].set(1)

    def turned(model, rows):
        return sign * model.encode(model, rows)

    with pytest.raises(ValueError, match="pass signed=True"):
        gap.amortisation_gap(model, rows, LAM, encode=turned)
    assert (gap.amortisation_gap(model, rows, LAM, encode=turned, signed=True).gap > 0).all()

    def nudged(model, rows):
        return model.encode(model, rows).at[0, 0].add(-1e-7)

    found = gap.amortisation_gap(model, signals, LAM, encode=nudged).gap
    np.testing.assert_allclose(found, plain, atol=1e-5)
    best = gap.amortisation_gap(model, signals, LAM, encode=Lasso(LAM, nonneg=False))
    assert best.gap == pytest.approx(0, abs=1e-6) and (best.codes < 0).any()


def test_a_solver_that_is_stopped_early_says_what_its_gap_may_miss():
    model, signals = sae()
    rough = gap.amortisation_gap(model, signals, LAM, max_iterations=1, solver="fista")
    best = gap.amortisation_gap(model, signals, LAM)
    assert not np.all(rough.optimum.converged) and np.all(rough.gap <= best.gap + 1e-5)
    assert np.all(rough.gap + np.asarray(rough.optimum.gap) >= best.gap - 1e-5)
