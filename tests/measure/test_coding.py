"""Codes and what they reconstruct, over several chunks."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from sae_gap import measure
from sae_gap.core.types import Model
from sae_gap.measure import coding, curve
from sae_gap.measure.coding import code, code_chosen, code_lasso, pursued
from sae_gap.solvers import orthogonal_matching_pursuit, sparse_code


@pytest.fixture
def subject():
    rng = np.random.default_rng(0)
    return measure.of_model("mine", Model(jnp.asarray(rng.normal(size=(6, 12)), jnp.float32), jnp.ones(6)))


X = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)


def test_values_are_decoded_as_they_are_and_after_non_negative_least_squares(subject, monkeypatch):
    monkeypatch.setattr(curve, "LEAST", 8)
    monkeypatch.setattr(curve, "CHUNK", 8)
    values = np.abs(np.random.default_rng(2).normal(size=(20, 12))).astype(np.float32)
    values[:, 1:][values[:, 1:] < 1] = 0
    parts = iter((values[:8], values[8:16], values[16:]))
    found = code(subject, X, lambda _: next(parts), "these")
    atoms = np.asarray(subject.dictionary)
    np.testing.assert_array_equal(found["these"].codes.toarray(), values)
    np.testing.assert_allclose(found["these"].guess, values @ atoms.T + 1, rtol=1e-5, atol=1e-5)
    for row, on, again, guess in zip(
        X - 1, values != 0, found["these_refit"].codes.toarray(), found["these_refit"].guess, strict=True
    ):
        best = nnls(atoms[:, on], row)[0]
        np.testing.assert_allclose(again[on], best, atol=1e-5)
        np.testing.assert_allclose(guess, atoms[:, on] @ best + 1, atol=1e-5)
    assert {*code(subject, X, lambda target: target @ atoms, "these", refitted=False)} == {"these"}


def test_the_certificate_is_the_largest_of_all_chunks(subject, monkeypatch):
    monkeypatch.setattr(curve, "LEAST", 8)
    monkeypatch.setattr(curve, "CHUNK", 8)
    most = iter((100, 1, 100))
    monkeypatch.setattr(coding, "sparse_code", lambda *given, **also: sparse_code(*given, **also, max_iterations=next(most)))
    found, certificate = code_lasso(subject, X, 0.1)
    assert {*found} == {"lasso", "lasso_refit"} and certificate > 1e-4


def test_the_first_atoms_of_a_pursuit_are_those_of_a_shorter_one(subject, monkeypatch):
    monkeypatch.setattr(curve, "LEAST", 8)
    monkeypatch.setattr(curve, "CHUNK", 8)
    order, atoms = pursued(subject, X, 3), np.asarray(subject.dictionary)
    assert order.shape == (20, 3)
    for steps in (2, 3):
        whole = np.asarray(orthogonal_matching_pursuit(jnp.asarray(X - 1), subject.dictionary, steps, nonneg=True))
        assert [{*row[:steps]} for row in order] == [{*np.flatnonzero(each)} for each in whole]
        for row, chosen, guess in zip(X - 1, order, code_chosen(subject, X, order[:, :steps]).guess, strict=True):
            on = chosen[:steps]
            np.testing.assert_allclose(guess, atoms[:, on] @ nnls(atoms[:, on], row)[0] + 1, atol=1e-5)
