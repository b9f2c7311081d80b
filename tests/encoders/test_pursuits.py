"""Pursuits against loops over samples: matching pursuit and its gradient, gradient pursuit, OMP,
and hard thresholding. tests/solvers/test_greedy.py has the least squares of OMP.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model
from sae_gap.encoders import OMP, GradientPursuit, Lasso, MatchingPursuit, ThresholdingPursuit
from sae_gap.runtime import devices

# The Gram matrix of 12 atoms is formed for k = 3 from 4 signals on.
WITH_GRAM, WITHOUT_GRAM = 9, 3
encode = eqx.filter_jit(lambda encoder, *given: encoder(*given))
loss_of = eqx.filter_jit(lambda encoder, *given: encoder.loss(*given, 0.1)[0])


@pytest.fixture
def double_precision():
    """Near ties in single precision would let two right answers differ."""
    with jax.enable_x64(True):
        yield


def problem(n, seed=0, input_dim=5, num_latents=12):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(input_dim, num_latents)) * rng.uniform(0.3, 3, num_latents)
    parts = dictionary, rng.normal(size=input_dim), rng.normal(size=(n, input_dim))
    *parts, signals = map(jnp.asarray, parts)
    return Model(*parts), signals


def pursue(model, signals, k, nonneg=False):
    """Supports in order, and codes in units of the model's atoms."""
    dictionary, supports = np.asarray(model.dictionary), []
    lengths, codes = np.linalg.norm(dictionary, axis=0), np.zeros((len(signals), 12))
    for rest, code in zip(np.asarray(signals - model.bias), codes, strict=True):
        supports.append([])
        for _ in range(min(k, 12)):
            pull = rest @ (dictionary / lengths)
            size = pull.copy() if nonneg else np.abs(pull)
            size[supports[-1]] = -np.inf
            best = np.argmax(size)
            code[best] = max(pull[best], 0 if nonneg else -np.inf) / lengths[best]
            rest = rest - code[best] * dictionary[:, best]
            supports[-1].append(best)
    return supports, codes


@pytest.mark.parametrize(
    ("n", "k", "nonneg"), [(9, 1, False), (9, 3, False), (3, 3, True), (9, 9, True), (3, 20, False)]
)
def test_codes_of_matching_pursuit_and_their_error(n, k, nonneg, double_precision):
    encoder = MatchingPursuit(k, nonneg=nonneg)
    for seed in range(3):
        model, signals = problem(n, seed)
        expected = pursue(model, signals, k, nonneg)[1]
        np.testing.assert_allclose(encode(encoder, model, signals), expected, atol=1e-10)
        error = (expected @ model.dictionary.T + model.bias - signals) ** 2
        np.testing.assert_allclose(loss_of(encoder, model, signals), error.mean(axis=1), atol=1e-10)


def replay(model, signals, supports, nonneg):
    """The residual with the chosen atoms held fixed, written so that autodiff sees every step."""
    rest = signals - model.bias
    for chosen in jnp.asarray(supports).T:
        atoms = model.dictionary[:, chosen].T
        atoms = atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)
        values = jnp.sum(rest * atoms, axis=1, keepdims=True)
        rest = rest - jnp.maximum(values, 0 if nonneg else -jnp.inf) * atoms
    return rest


@pytest.mark.parametrize(
    ("n", "k", "nonneg"), [(WITH_GRAM, 3, False), (WITHOUT_GRAM, 3, False), (3, 9, True)]
)
def test_the_gradient_is_that_of_a_replay(n, k, nonneg, double_precision):
    given, weights = problem(n), jnp.linspace(-1, 2, n)
    supports, _ = pursue(*given, k, nonneg)

    def loss(given):
        return weights @ loss_of(MatchingPursuit(k, nonneg=nonneg), *given)

    def expected(given):
        return weights @ jnp.mean(replay(*given, supports, nonneg) ** 2, axis=1)

    slopes = (jax.jit(jax.grad(function))(given) for function in (loss, expected))
    for gradient, other in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-9)
        assert jnp.abs(gradient).max() > 0.1


@pytest.mark.parametrize("kind", [OMP, GradientPursuit])
def test_on_the_axes_the_largest_coordinates_are_taken(kind):
    """None that is negative, for non-negative codes."""
    model, signals = Model(2 * jnp.eye(3), jnp.ones(3)), jnp.array([[3.0, 1, 2], [0, -1, -3]])
    np.testing.assert_allclose(kind(2)(model, signals), [[1, 0, 0.5], [0, -1, -2]], atol=1e-6)
    found = kind(2, nonneg=True)(model, signals)
    np.testing.assert_allclose(found, [[1, 0, 0.5], [0, 0, 0]], atol=1e-6)


def thresholded(target, atoms, code, lam, rounds):
    """By hand, and the least distance of a score from the threshold."""
    close = np.inf
    for _ in range(rounds):
        rest = target - atoms @ code
        least = max(lam, np.sqrt(2 * np.log(atoms.shape[1]) * np.mean(rest**2)))
        score, code = atoms.T @ rest + code, np.zeros(len(code))
        close = min(close, np.abs(score - least).min())
        on = score > least
        code[on] = np.linalg.lstsq(atoms[:, on], target, rcond=None)[0].clip(0)
    return code, close


@pytest.mark.parametrize(("lam", "rounds"), [(0.5, 1), (0.5, 2), (1.5, 2)])
def test_hard_thresholding(lam, rounds):
    """Of 200 features in 50 dimensions a model has 50; a larger λ is the threshold of some."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(50, 200))
    atoms /= np.linalg.norm(atoms, axis=0)
    on = rng.random((100, 200)) < np.where(np.arange(200) < 50, 0.04, 0.01)
    bias, lengths = rng.normal(size=50), rng.uniform(0.3, 3, 50)
    signals = (on * rng.normal(4, 0.4, on.shape)) @ atoms.T + bias
    dictionary, bias, y = (
        jnp.asarray(part, jnp.float32) for part in (atoms[:, :50] * lengths, bias, signals)
    )
    model = Model(dictionary, bias)
    begun = np.asarray(Lasso(lam).infer(model, y).codes) * lengths
    found = ThresholdingPursuit(lam, rounds)(model, y)
    rows = [
        thresholded(target, atoms[:, :50], code, lam, rounds)
        for target, code in zip(signals - np.asarray(bias), begun, strict=True)
    ]
    clear = np.array([close for _, close in rows]) > 1e-4
    expected = np.array([code for code, _ in rows])
    assert clear.mean() > 0.95 and (expected > 0).sum() > 100
    np.testing.assert_allclose((found * lengths)[clear], expected[clear], rtol=1e-3, atol=1e-4)
    # Another weight is no other program.
    before = devices.compilations()
    ThresholdingPursuit(1.1 * lam, rounds)(model, y)
    assert devices.compilations() == before
