"""Sparse codes are the dense ones, wherever these are cut, read or gathered."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark
from scipy.sparse import csr_array

from sae_gap.core import codes as forms
from sae_gap.metrics import recovery


def dense_codes(seed, width=12, share=0.1):
    rng = default_rng(seed)
    return (rng.standard_normal((7, width)) * (rng.random((7, width)) < share)).astype(
        np.float32
    )


@given(st.integers(0, 1_000), st.sampled_from([0.0, 0.05, 1.0]), st.integers(1, 100))
@settings(max_examples=15, deadline=None)
def test_active_columns_and_chunks_are_those_of_the_dense_codes(seed, share, at_once):
    dense = dense_codes(seed, share=share)
    sparse = csr_array(dense)
    # An entry that is stored and zero is no active latent.
    sparse.data[: len(sparse.data) // 2] = 0
    dense = sparse.toarray()
    columns, latents = forms.active_columns(sparse)
    assert latents.tolist() == (np.flatnonzero(dense.any(axis=0)).tolist() or [0])
    assert_array_equal(columns, dense[:, latents], strict=True)
    every, latents = forms.active_columns(dense)
    assert every is dense and every[:, latents].shape == dense.shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "_AT_ONCE", at_once)
        rows, *parts = zip(
            *forms.dense_chunks(dense, sparse, dense.astype(np.int8)), strict=True
        )
    assert [rows.stop - rows.start for rows in rows] == [max(1, at_once // 12)] * len(
        parts[0]
    )
    for part, whole in zip(parts, (dense, dense, dense.astype(np.int8)), strict=True):
        assert_array_equal(np.concatenate(part), whole.astype(np.float32), strict=True)


@mark.parametrize("kind", ["array", "matrix"])
@mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
def test_sparse_codes_of_any_format_are_taken(form, kind):
    dense = dense_codes(0, share=0.4)
    sparse = getattr(scipy.sparse, f"{form}_{kind}")(dense)
    assert recovery.mcc(sparse, dense) == approx(1)


@dataclass
class Found:
    codes: np.ndarray
    sums: np.ndarray


@mark.parametrize("size", [1, 3, 7, 100])
def test_inference_in_chunks_is_that_of_all(size):
    signals = dense_codes(0, width=5, share=1.0)
    shapes = []
    start = dense_codes(1, width=9, share=0.3)

    def infer(chunk, first, second):
        shapes.append(chunk.shape)
        assert_array_equal(first, second)
        return Found(np.maximum(chunk, 0), chunk.sum(axis=1) + first.sum(axis=1))

    begun = start, csr_array(start)
    found = forms.infer_in_chunks(infer, signals, size, begun=begun)
    assert set(shapes) == {(min(size, 7), 5)} and isinstance(found, Found)
    assert_array_equal(found.codes.toarray(), np.maximum(signals, 0), strict=True)
    sums = signals.sum(axis=1) + start.sum(axis=1)
    assert_allclose(found.sums, sums, rtol=1e-6)
