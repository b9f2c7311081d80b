"""Codes and what they reconstruct, over several chunks."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
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
    thresholded,
)
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code
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
    atoms = np.asarray(sae.unit_dictionary)
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
    np.testing.assert_allclose(
        found, ThresholdingPursuit(0.2)(sae.unit_model, sae.target(X)), atol=1e-4
    )
    assert 0 < np.count_nonzero(found) < begun.codes.nnz


def test_the_certificate_is_the_largest_of_all_chunks(sae, monkeypatch):
    most = iter((100, 1, 100))
    monkeypatch.setattr(
        coding,
        "sparse_code",
        lambda *given, **also: sparse_code(*given, **also, max_iterations=next(most)),
    )
    assert code(sae, X, lasso(sae, 0.1)).certificate > 1e-4


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
    assert set(np.bincount(chosen % 128)) <= {37, 38, 39, 40, 41}
    np.testing.assert_array_equal(evenly_spaced(3, 10), [0, 1, 2])
    assert evenly_spaced(0, 10).tolist() == []
    for count, most in ((1_000, 999), (1_000, 500), (999, 64), (7, 1)):
        chosen = evenly_spaced(count, most)
        assert len(set(chosen)) == most and chosen[0] >= 0 and chosen[-1] < count
        assert (chosen[0] > 0) == (most <= count / 2)
        # No part of twice their distance is without one.
        assert np.diff(chosen, prepend=-1, append=count).max() <= 2 * -(-count // most)


def test_a_weight_found_on_few_samples_is_corrected_by_all(monkeypatch):
    """Codes of orthonormal atoms are those above the weight, so that the weight of an L0 is a
    quantile of them.
    """
    monkeypatch.setattr(coding, "MATCHED", 400)
    monkeypatch.setattr(coding, "evenly_spaced", lambda count, most: np.arange(most))
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    # The first rows are the largest.
    codes = rng.uniform(0, 2, (2_000, 8)) * np.linspace(1.05, 0.95, 2_000)[:, None]
    sae = SAE.of_model(Model(jnp.asarray(frame, jnp.float32), jnp.zeros(8)), name="frame")
    x = (codes @ frame.T).astype(np.float32)
    exact, off = (np.quantile(each, 1 - 2 / 8) for each in (codes, codes[:400]))
    assert off > exact + 0.05 and abs(coding.find_weight(sae, x, 2.0) - exact) < 0.5 * (off - exact)


def test_where_codes_are_never_as_many_as_wanted_half_of_them_are():
    """Signals of three orthonormal atoms each have no more codes than three, which a weight only
    takes from.
    """
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((8, 6)))[0]
    codes = rng.uniform(1, 2, (100, 6)) * (rng.random((100, 6)).argsort(axis=1) < 3)
    sae = SAE.of_model(Model(jnp.asarray(frame, jnp.float32), jnp.zeros(8)), name="frame")
    lam = coding.find_weight(sae, (codes @ frame.T).astype(np.float32), 4.0)
    assert (codes > lam).sum(axis=1).mean() == pytest.approx(2, abs=0.03)


@pytest.mark.parametrize(
    ("rows", "latents", "dead"),
    [(9, [0], True), (39, [0, 1], False), (40, [0, 1], True), (40, [0, 1, 2, 3], False)],
    ids=["less than one a row", "too few chances", "most never fire", "half fire"],
)
def test_an_encoder_is_dead_that_hardly_fires_or_has_most_latents_never_fire(rows, latents, dead):
    """Of eight latents, whose 160 chances are 80 rows of two codes, or 40 of four."""
    codes = np.zeros((2 * rows if len(latents) == 2 else rows, 8))
    codes[: len(codes) - (len(latents) == 1), latents] = 1
    found = coding.Coding(scipy.sparse.csr_array(codes), np.zeros((len(codes), 3)), None)
    assert found.dead == dead
    (part,) = {found.of(slice(0, 5)).codes.shape[0]}
    assert part == 5 and found.fired == len(latents)


def test_an_encoder_of_ones_own_is_told_by_its_codes(sae):
    def with_encoder(encode):
        model = Model(sae.unit_dictionary, jnp.ones(6), encode=encode)
        return SAE.of_model(model, name="mine")

    def own(threshold):
        def encode(model, signals):
            return jnp.maximum(signals @ model.decoder - threshold, 0)

        return encode

    told = [coding.identity(with_encoder(own(threshold)), X) for threshold in (0.1, 0.1, 0.2)]
    assert told[0] == told[1] != told[2]
    suite = with_encoder(ThresholdingPursuit(0.2))
    assert coding.identity(suite, X) == coding.identity(suite, 2 * X) == suite.identity
