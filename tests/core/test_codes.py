"""Codes by their active columns are the dense codes, wherever these are cut, scaled, read or
gathered.
"""

import dataclasses

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_gap.core.codes import Codes, by_columns, infer_in_chunks, join
from sae_gap.metrics import recovery


def dense_codes(seed, n=7, width=12, share=0.1):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, width)) * (rng.random((n, width)) < share)).astype(np.float32)


def few(codes):
    """Whether no column is held in vain."""
    return len(codes.latents) == max(1, np.any(np.asarray(codes.dense()) != 0, axis=0).sum())


@given(seed=st.integers(0, 1_000), share=st.sampled_from([0.0, 0.05, 0.3, 1.0]))
@settings(max_examples=15, deadline=None)
def test_codes_are_the_dense_ones(seed, share):
    dense = dense_codes(seed, share=share)
    codes = Codes.from_dense(dense)
    assert (
        codes.shape == dense.shape and len(codes) == 7 and codes.dtype == np.float32 and few(codes)
    )
    np.testing.assert_array_equal(codes.dense(), dense)
    for rows in (slice(2, 5), slice(None), slice(-2, None)):
        np.testing.assert_array_equal(codes[rows].dense(), dense[rows])
        assert few(codes[rows])
    for latent in (0, 11, -1):
        np.testing.assert_array_equal(codes[:, latent], dense[:, latent])
    order = np.random.default_rng(seed).permutation(12)
    np.testing.assert_array_equal(codes.at(order), dense[:, order])
    factors = np.random.default_rng(seed).standard_normal(12).astype(np.float32)
    np.testing.assert_array_equal(codes.scaled(factors).dense(), dense * factors)


@given(seed=st.integers(0, 1_000), share=st.sampled_from([0.0, 0.05, 1.0]))
@settings(max_examples=15, deadline=None)
def test_a_sparse_array_is_the_same_codes(seed, share):
    dense = dense_codes(seed, share=share)
    sparse = scipy.sparse.csr_array(dense)
    # An entry that is stored and zero is no active latent.
    sparse.data[: len(sparse.data) // 2] = 0
    codes = by_columns(sparse)
    assert isinstance(codes, Codes) and codes.dtype == np.float32 and few(codes)
    np.testing.assert_array_equal(codes.dense(), sparse.toarray())
    assert by_columns(dense) is dense and by_columns(codes) is codes


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
def test_sparse_codes_of_any_format_are_taken(form, kind):
    dense = dense_codes(0, share=0.4)
    sparse = getattr(scipy.sparse, f"{form}_{kind}")(dense)
    np.testing.assert_array_equal(by_columns(sparse).dense(), dense)
    assert recovery.mcc(sparse, dense) == pytest.approx(1)


@given(seed=st.integers(0, 1_000), size=st.integers(1, 9), share=st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=15, deadline=None)
def test_gathered_chunks_are_the_whole(seed, size, share):
    dense = dense_codes(seed, share=share)
    codes = join(
        [Codes.from_dense(dense[start : start + size]) for start in range(0, len(dense), size)]
    )
    np.testing.assert_array_equal(codes.dense(), dense)
    assert few(codes)


@dataclasses.dataclass
class Found:
    codes: np.ndarray | Codes
    sums: np.ndarray


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_inference_in_chunks_is_that_of_all(size):
    signals, shapes = dense_codes(0, width=5, share=1.0), []

    def infer(chunk):
        shapes.append(chunk.shape)
        return Found(np.maximum(chunk, 0) * (np.arange(5) != 2), chunk.sum(axis=1))

    sparse = infer_in_chunks(infer, signals, size, sparse=True)
    found = infer_in_chunks(infer, signals, size)
    np.testing.assert_array_equal(sparse.codes.toarray(), found.codes.dense())
    assert set(shapes) == {(min(size, 7), 5)} and isinstance(found, Found)
    np.testing.assert_array_equal(found.codes.dense(), np.maximum(signals, 0) * (np.arange(5) != 2))
    assert found.codes.latents.tolist() == [0, 1, 3, 4]
    np.testing.assert_allclose(found.sums, signals.sum(axis=1), rtol=1e-6)
