"""Hard thresholding from the lasso against a loop in NumPy, and where features are missing."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.thresholding_pursuit import ThresholdingPursuit
from sae_gap.runtime import devices

LAM = 0.5


@pytest.fixture(scope="module")
def drawn():
    """Signals of 400 features in 100 dimensions, and a model with 100 of the atoms."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(100, 400))
    atoms /= np.linalg.norm(atoms, axis=0)
    on = rng.random((400, 400)) < np.where(np.arange(400) < 100, 0.04, 0.01)
    codes = on * rng.normal(4, 0.4, on.shape)
    bias, lengths = rng.normal(size=100), rng.uniform(0.3, 3, 100)
    model = Model(
        jnp.asarray(atoms[:, :100] * lengths, jnp.float32), jnp.asarray(bias, jnp.float32)
    )
    return model, jnp.asarray(codes @ atoms.T + bias, jnp.float32), codes[:, :100], lengths


def by_hand(model, signals, codes, lam, rounds):
    """From the lasso's codes, sample by sample; where a choice is not close."""
    atoms = np.asarray(model.dictionary, np.float64)
    lengths = np.linalg.norm(atoms, axis=0)
    atoms, targets = atoms / lengths, np.asarray(signals - model.bias, np.float64)
    found, clear = np.zeros(codes.shape), np.ones(len(codes), bool)
    for i, (target, code) in enumerate(zip(targets, np.asarray(codes) * lengths, strict=True)):
        for _ in range(rounds):
            rest = target - atoms @ code
            least = max(lam, np.sqrt(2 * np.log(100) * np.mean(rest**2)))
            score = np.array([atoms[:, j] @ (rest + atoms[:, j] * code[j]) for j in range(100)])
            clear[i] &= np.abs(score - least).min() > 1e-4
            on, code = score > least, np.zeros(100)
            code[on] = np.linalg.lstsq(atoms[:, on], target, rcond=None)[0].clip(0)
        found[i] = code
    return found / lengths, clear


@pytest.mark.parametrize(("lam", "rounds"), [(LAM, 1), (LAM, 2), (2.0, 2)])
def test_against_a_loop(drawn, lam, rounds):
    """At the larger λ it is the threshold of some samples."""
    model, signals, _, _ = drawn
    begun = Lasso(lam).infer(model, signals).codes
    expected, clear = by_hand(model, signals, begun, lam, rounds)
    found = ThresholdingPursuit(lam, rounds)(model, signals)
    assert clear.mean() > 0.97 and (expected > 0).sum() > 1_000
    np.testing.assert_allclose(found[clear], expected[clear], rtol=1e-3, atol=1e-5)


def test_another_weight_is_not_another_program(drawn):
    ThresholdingPursuit(LAM)(*drawn[:2])
    before = devices.compilations()
    ThresholdingPursuit(1.5 * LAM)(*drawn[:2])
    assert devices.compilations() == before
