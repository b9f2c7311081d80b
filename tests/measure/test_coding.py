"""Codes and what they reconstruct, over several chunks."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.jumprelu import JumpReLU, JumpReLUParameters
from sae_gap.encoders.thresholding_pursuit import ThresholdingPursuit
from sae_gap.measure import coding, evenly_spaced
from sae_gap.measure.coding import (
    code,
    lasso,
    least_squares,
    least_squares_on,
    pursued,
    thresholded,
)
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import orthogonal_matching_pursuit, sparse_code
from tests.encoders.test_screened_pursuit import by_loop


@pytest.fixture
def sae(monkeypatch):
    """In chunks of eight rows."""
    monkeypatch.setattr(coding, "LEAST", 8)
    monkeypatch.setattr(coding, "CHUNK", 8)
    atoms = np.random.default_rng(0).normal(size=(6, 12))
    return SAE.of_model(Model(jnp.asarray(atoms, jnp.float32), jnp.ones(6)), name="mine")


X = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)


def test_values_are_decoded_as_they_are_and_after_non_negative_least_squares(sae):
    values = np.abs(np.random.default_rng(2).normal(size=(20, 12))).astype(np.float32)
    values[:, 1:][values[:, 1:] < 1] = 0
    coded = code(sae, X, lambda target, place: values[place])
    again = code(sae, X, least_squares(sae, coded.codes))
    atoms = np.asarray(sae.model.dictionary)
    np.testing.assert_array_equal(coded.codes.toarray(), values)
    np.testing.assert_allclose(coded.guess, values @ atoms.T + 1, rtol=1e-5, atol=1e-5)
    assert coded.l0 == np.count_nonzero(values) / 20 and coded.certificate is None
    for row, on, found, guess in zip(
        X - 1, values != 0, again.codes.toarray(), again.guess, strict=True
    ):
        best = nnls(atoms[:, on], row)[0]
        np.testing.assert_allclose(found[on], best, atol=1e-5)
        np.testing.assert_allclose(guess, atoms[:, on] @ best + 1, atol=1e-5)


def test_thresholding_begins_with_the_lasso_of_its_own_rows(sae):
    begun = code(sae, X, lasso(sae, 0.2))
    found = code(sae, X, thresholded(sae, 0.2, begun.codes)).codes.toarray()
    np.testing.assert_allclose(found, ThresholdingPursuit(0.2)(sae.model, sae.target(X)), atol=1e-4)
    assert 0 < np.count_nonzero(found) < begun.codes.nnz


def test_the_certificate_is_the_largest_of_all_chunks(sae, monkeypatch):
    most = iter((100, 1, 100))
    monkeypatch.setattr(
        coding,
        "sparse_code",
        lambda *given, **also: sparse_code(*given, **also, max_iterations=next(most)),
    )
    assert code(sae, X, lasso(sae, 0.1)).certificate > 1e-4


def test_the_first_atoms_of_a_pursuit_are_those_of_a_shorter_one(sae):
    order, atoms = pursued(sae, X, 3), np.asarray(sae.model.dictionary)
    assert order.shape == (20, 3)
    for steps in (2, 3):
        whole = np.asarray(
            orthogonal_matching_pursuit(jnp.asarray(X - 1), atoms, steps, nonneg=True)
        )
        assert [{*row[:steps]} for row in order] == [{*np.flatnonzero(each)} for each in whole]
        guesses = code(sae, X, least_squares_on(sae, order[:, :steps])).guess
        for row, on, guess in zip(X - 1, order[:, :steps], guesses, strict=True):
            np.testing.assert_allclose(
                guess, atoms[:, on] @ nnls(atoms[:, on], row)[0] + 1, atol=1e-5
            )


@pytest.mark.parametrize("proposed", [False, True])
def test_a_pursuit_leaves_out_what_adds_least(monkeypatch, proposed):
    """Against loops: of twice two atoms a row those stay without which the error grows most, 1.5 on
    average over the first twelve rows.
    """
    monkeypatch.setattr(coding, "LEAST", 8)
    monkeypatch.setattr(coding, "CHUNK", 8)
    rng = np.random.default_rng(5)
    atoms = rng.normal(size=(10, 30)) * rng.uniform(0.5, 2, 30)
    weight = atoms + rng.normal(size=(10, 30))
    shift, bias = rng.normal(size=30), rng.normal(size=10)
    x = rng.normal(size=(24, 10)).astype(np.float32)
    given = (jnp.asarray(part, jnp.float32) for part in (atoms, bias, weight, shift))
    decoder, centre, *parts = given
    parameters = JumpReLUParameters(Affine(*parts), jnp.zeros(30))
    sae = SAE.of_model(Model(decoder, centre, parameters, JumpReLU()), name="mine")
    lengths = np.linalg.norm(atoms, axis=0)
    unit, added = atoms / lengths, np.zeros((24, 30))
    for row, out in zip(x - bias, added, strict=True):
        among = np.argsort(-(row @ weight + shift) * lengths)[:8] if proposed else np.arange(30)
        codes = np.zeros(30)
        codes[among] = by_loop(row, unit[:, among], (4,) if proposed else (2, 4), 8)

        def error(on, row=row):
            return np.linalg.norm(row - unit[:, on] @ np.linalg.lstsq(unit[:, on], row)[0]) ** 2

        on = np.flatnonzero(codes)
        out[on] = [error(on[on != j]) - error(on) for j in on]
    least = np.sort(added[:12].ravel())[-18]
    coder = coding.screened(sae, x, 1.5, np.arange(24) < 12, proposed=proposed)
    found = code(sae, x, coder).codes.toarray()
    for row, values, on in zip(x - bias, found, added >= least, strict=True):
        expected = np.zeros(30)
        if on.any():
            expected[on] = nnls(unit[:, on], row)[0]
        np.testing.assert_allclose(values, expected, atol=1e-4)
    assert np.count_nonzero(found[:12]) == 18 and np.ptp(np.count_nonzero(found, axis=1)) > 1


def test_what_is_spread_is_even_and_each_once():
    chosen = evenly_spaced(640_000, 5_000)
    assert len(set(chosen)) == 5_000 and np.diff(chosen).max() < 3 * 128
    # Windows of 128 rows: each place of them is chosen about as often.
    assert set(np.bincount(chosen % 128)) <= {39, 40}
    np.testing.assert_array_equal(evenly_spaced(3, 10), [0, 1, 2])
    assert len(set(evenly_spaced(1_000, 999))) == 999 and evenly_spaced(1_000, 999).max() < 1_000
