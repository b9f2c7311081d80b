"""Matching pursuit against a loop over samples, and its gradient against a replay of the pursuit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model
from sae_gap.encoders.matching_pursuit import MatchingPursuit

# The Gram matrix of 12 atoms is formed for k = 3 from 4 signals on.
WITH_GRAM, WITHOUT_GRAM = 9, 3


@eqx.filter_jit
def encode(k, model, signals, nonneg=False):
    return MatchingPursuit(k, nonneg=nonneg)(model, signals)


@eqx.filter_jit
def loss_of(k, model, signals, nonneg=False):
    return MatchingPursuit(k, nonneg=nonneg).loss(model, signals, 0.1)[0]


@pytest.fixture(autouse=True)
def double_precision():
    """Near ties in single precision would let two right answers differ."""
    with jax.enable_x64(True):
        yield


def problem(n, seed=0, input_dim=5, num_latents=12):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(input_dim, num_latents)) * rng.uniform(0.3, 3, num_latents)
    return Model(jnp.asarray(dictionary), jnp.asarray(rng.normal(size=input_dim))), jnp.asarray(
        rng.normal(size=(n, input_dim))
    )


def pursue(model, signals, k, nonneg=False):
    """Supports in order, and codes in units of the model's atoms."""
    dictionary, bias = np.asarray(model.dictionary), np.asarray(model.bias)
    supports, codes = [], np.zeros((len(signals), dictionary.shape[1]))
    for signal, code in zip(np.asarray(signals), codes, strict=True):
        residual, free = signal - bias, list(range(dictionary.shape[1]))
        supports.append([])
        for _ in range(min(k, len(free))):
            lengths = [np.linalg.norm(dictionary[:, j]) or 1.0 for j in free]
            projections = [
                dictionary[:, j] @ residual / length
                for j, length in zip(free, lengths, strict=True)
            ]
            best = int(np.argmax(projections if nonneg else np.abs(projections)))
            projections[best] = max(projections[best], 0 if nonneg else -np.inf)
            code[free[best]] = projections[best] / lengths[best]
            residual = residual - projections[best] * dictionary[:, free[best]] / lengths[best]
            supports[-1].append(free.pop(best))
    return supports, codes


@pytest.mark.parametrize("n", [WITH_GRAM, WITHOUT_GRAM])
@pytest.mark.parametrize(
    ("k", "nonneg"), [(1, False), (3, False), (3, True), (9, True), (20, False)]
)
def test_codes_against_a_loop(n, k, nonneg):
    signs = set()
    for seed in range(4):
        model, signals = problem(n, seed)
        codes = encode(k, model, signals, nonneg)
        np.testing.assert_allclose(codes, pursue(model, signals, k, nonneg)[1], atol=1e-10)
        assert nonneg or (np.count_nonzero(codes, axis=1) == min(k, 12)).all()
        signs |= set(np.sign(codes).ravel())
    assert signs | {0} == ({0, 1} if nonneg else {-1, 0, 1})


@pytest.mark.parametrize("n", [WITH_GRAM, WITHOUT_GRAM])
def test_the_loss_is_the_error_of_the_codes_whatever_the_lengths_of_the_atoms(n):
    model, signals = problem(n)
    codes = encode(3, model, signals)
    error = jnp.mean((codes @ model.dictionary.T + model.bias - signals) ** 2, axis=1)
    lengths = jnp.asarray(np.random.default_rng(1).uniform(0.1, 9, 12))
    longer = Model(model.dictionary * lengths, model.bias)
    np.testing.assert_allclose(encode(3, longer, signals) * lengths, codes, atol=1e-10)
    for same in (model, longer):
        np.testing.assert_allclose(loss_of(3, same, signals), error, atol=1e-10)


def replay(dictionary, bias, signals, supports, nonneg):
    """The reconstruction with the chosen atoms held fixed, written so that autodiff sees every
    step.
    """
    residuals = signals - bias
    for chosen in jnp.asarray(supports).T:
        atoms = dictionary[:, chosen].T
        atoms = atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)
        values = jnp.sum(residuals * atoms, axis=1, keepdims=True)
        residuals = residuals - jnp.maximum(values, 0 if nonneg else -jnp.inf) * atoms
    return signals - residuals


@pytest.mark.parametrize(
    ("n", "k", "nonneg"), [(WITH_GRAM, 3, False), (WITHOUT_GRAM, 3, False), (3, 9, True)]
)
def test_the_gradient_is_that_of_a_replay(n, k, nonneg):
    model, signals = problem(n)
    supports, _ = pursue(model, signals, k, nonneg)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=n))

    def loss(dictionary, bias, signals):
        return jnp.sum(weights * loss_of(k, Model(dictionary, bias), signals, nonneg))

    def expected(dictionary, bias, signals):
        errors = signals - replay(dictionary, bias, signals, supports, nonneg)
        return jnp.sum(weights * jnp.mean(errors**2, axis=1))

    arguments = model.dictionary, model.bias, signals
    found, others = (
        jax.jit(jax.grad(function, argnums=(0, 1, 2)))(*arguments) for function in (loss, expected)
    )
    for gradient, other in zip(found, others, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-9)
        assert jnp.abs(gradient).max() > 0.1
