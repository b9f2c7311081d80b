"""Searches for the best k atoms, held against those of the solvers by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.codes import as_codes
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders import exchange
from sae_gap.encoders.exchange import BestOf, Exchange, LassoPath, Restarted
from sae_gap.encoders.matching_pursuit import MatchingPursuit
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


@pytest.mark.parametrize("most", [WIDTH, WIDTH - 1])
def test_exchanges_go_on_from_supports_and_the_better_codes_are_found_once(most, monkeypatch):
    """Dense, and of more latents than are held so."""
    greedy, path, calls = Exchange(K, exchanges=False), LassoPath(2), []
    pair = MatchingPursuit(K, nonneg=True), Exchange(2, path)
    start = on_unit_atoms(path)
    ends = exchange_pursuit(TARGET, UNIT, 2, start=start).toarray()
    monkeypatch.setattr(inference, "DENSE_LATENTS", most)
    monkeypatch.setattr(
        exchange, "exchange_pursuit", lambda *a, **b: calls.append(a) or exchange_pursuit(*a, **b)
    )
    held = Split(jnp.asarray(X))
    found = inference.Inference(Task(held, held, held, width=WIDTH), MODEL, timed=False)
    best, one, other, plain = (
        as_codes(found.infer(encoder, "id").codes).dense() * NORMS
        for encoder in (BestOf(*pair), *pair, greedy)
    )
    np.testing.assert_allclose(other, ends, atol=1e-4)
    np.testing.assert_allclose(
        plain, exchange_pursuit(TARGET, UNIT, K, exchanges=False).toarray(), atol=1e-4
    )
    errors = [np.sum((TARGET - codes @ UNIT.T) ** 2, axis=1) for codes in (one, other)]
    first = errors[0] <= errors[1]
    np.testing.assert_array_equal(best, np.where(first[:, None], one, other))
    assert len(calls) == 2 and 0 < first[:-1].mean() < 1
    np.testing.assert_allclose(on_unit_atoms(BestOf(*pair)), best, atol=1e-4)


def test_restarts_find_better_supports_where_atoms_are_alike():
    rng = np.random.default_rng(1)
    atoms = np.repeat(rng.normal(size=(16, 12)), 8, axis=1) + 0.5 * rng.normal(size=(16, 96))
    model, x = Model(jnp.asarray(atoms, jnp.float32), jnp.ones(16)), rng.normal(size=(40, 16))

    def search(encoder, rows):
        codes = np.asarray(encoder.infer(model, jnp.asarray(rows, jnp.float32)).codes)
        assert ((codes > 0).sum(axis=1) <= 5).all()
        return codes, np.linalg.norm(rows - 1 - codes @ atoms.T, axis=1)

    start = Exchange(5)
    (_, before), (codes, after) = search(start, x), search(Restarted(5, start), x)
    assert (after < before + 1e-5).all() and (after < before - 1e-3).sum() > 5
    # No sample depends on those beside it.
    np.testing.assert_allclose(search(Restarted(5, start), x[7:8])[0], codes[7:8], atol=1e-4)
