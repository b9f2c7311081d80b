"""Searches for the best k atoms, held against those of the solvers by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.codes import as_codes
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders import exchange
from sae_gap.encoders.exchange import BestOf, Exchange, LassoPath
from sae_gap.solvers import exchange_pursuit, sparse_code
from sae_gap.study import inference

K, WIDTH = 3, 30
RNG = np.random.default_rng(0)
ATOMS = (RNG.normal(size=(10, WIDTH)) + RNG.normal(size=(10, 1))).astype(np.float32)
NORMS = np.linalg.norm(ATOMS, axis=0)
UNIT = ATOMS / NORMS
MODEL = Model(jnp.asarray(ATOMS), jnp.ones(10))
X = (3 * RNG.normal(size=(24, 10)) + 1).astype(np.float32)
X[-1] = 1
TARGET = X - 1


def on_unit_atoms(encoder):
    return np.asarray(encoder.infer(MODEL, X).codes) * NORMS


def test_the_lasso_of_most_atoms_is_the_last_of_a_path_that_has_no_more():
    top = np.maximum((TARGET @ UNIT).max(axis=1, keepdims=True), 1e-9)
    expected = np.zeros((24, WIDTH))
    for step in range(1, 31):
        codes = np.asarray(sparse_code(TARGET, UNIT, top * 0.85**step).codes)
        expected = np.where((codes > 0).sum(axis=1, keepdims=True) <= K, codes, expected)
    np.testing.assert_allclose(on_unit_atoms(LassoPath(K)), expected, atol=1e-4)
    assert 1 < (expected > 0).sum() / 24 < K
    whole = sparse_code(TARGET, UNIT, 1e-3 * top)
    found = LassoPath(WIDTH, 1e-3, 1).infer(MODEL, X)
    np.testing.assert_allclose(found.codes * NORMS, whole.codes, atol=1e-3)
    assert (found.gap <= 1e-6 * found.objective).all()


def test_exchanges_go_on_from_the_supports_of_an_encoder():
    path = LassoPath(K)
    for encoder, options in (
        (Exchange(K, exchanges=False), {"exchanges": False}),
        (Exchange(K), {}),
        (Exchange(K, path), {"start": on_unit_atoms(path)}),
    ):
        expected = exchange_pursuit(TARGET, UNIT, K, **options).toarray()
        np.testing.assert_allclose(on_unit_atoms(encoder), expected, atol=1e-4)


@pytest.mark.parametrize("most", [WIDTH, WIDTH - 1])
def test_the_better_of_two_codes_is_handed_both_and_each_is_found_once(most, monkeypatch):
    """Dense, and of more latents than are held so."""
    calls, pair = [], (Exchange(K, exchanges=False), Exchange(K, LassoPath(K)))
    monkeypatch.setattr(inference, "DENSE_LATENTS", most)
    monkeypatch.setattr(
        exchange,
        "exchange_pursuit",
        lambda *given, **options: calls.append(options) or exchange_pursuit(*given, **options),
    )
    held = Split(jnp.asarray(X))
    found = inference.Inference(Task(held, held, held, width=WIDTH), MODEL, timed=False)
    best, *both = (
        as_codes(found.infer(each, "id").codes).dense() * NORMS for each in (BestOf(*pair), *pair)
    )
    assert len(calls) == 2
    errors = np.array([np.sum((TARGET - codes @ UNIT.T) ** 2, axis=1) for codes in both])
    first = errors[0] <= errors[1] + 1e-6
    np.testing.assert_array_equal(best, np.where(first[:, None], *both))
    assert 0 < first[:-1].mean() < 1
    np.testing.assert_allclose(on_unit_atoms(BestOf(*pair)), best, atol=1e-5)
