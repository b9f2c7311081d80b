"""Codes of very many latents or samples: dense a few samples at a time, and stored by their
non-zeros.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpy import asarray, concatenate, float32, pad, unique, zeros
from scipy.sparse import csr_array, issparse, vstack

from sae_gap.core import slices

# Above this width codes are stored by their non-zeros: dense codes of 1,000 samples of a million
# latents would take 4 gigabytes.
DENSE_LATENTS = 20_000
# So are narrower codes of more numbers than this: dense codes of 100,000 samples of 16,384 latents
# would take 6 gigabytes.
DENSE_NUMBERS = 2**28
# How many numbers of dense codes are in memory at once, where a few samples at a time will do.
_AT_ONCE = 2**22
# Codes in either form, (n, num_latents); `sparse_code(…, sparse=True)` gives the latter.
AnyCodes = Float[ArrayLike, "n _"] | csr_array


def active_columns(codes: Any) -> tuple[Float[np.ndarray, "n active"], Any]:
    """Returns dense columns of codes, and which latents they are: all columns of dense codes, and
    of sparse ones, in any format, the columns with a non-zero, or the first column if none has.
    """
    if not issparse(codes):
        # Masked entries must stay masked for the caller's check.
        return np.asanyarray(codes), slice(None)
    codes = csr_array(codes)
    latents = unique(codes.indices[codes.data != 0])
    latents = latents if len(latents) else zeros(1, int)
    return columns_of(codes, latents), latents


def columns_of(codes: Any, latents: Int[np.ndarray, " some"] | slice) -> np.ndarray:
    """Returns the columns of some latents, dense, (n, some)."""
    chosen = codes[:, latents]
    return chosen.toarray() if issparse(chosen) else asarray(chosen)


def dense_chunks(*codes: Any) -> Iterator[tuple[Any, ...]]:
    """Gives dense codes, a few samples at a time.

    Args:
      *codes: codes of the same samples, each in any form.

    Yields:
      A slice of samples, and their codes.
    """
    forms = _sliceable(codes)
    size = max(1, _AT_ONCE // max(1, *(form.shape[1] for form in forms)))
    for rows in slices(forms[0].shape[0], size):
        yield rows, *(_dense(form[rows]) for form in forms)


def _sliceable(codes):
    """Turns codes into forms whose rows can be sliced."""
    return [csr_array(form) if issparse(form) else form for form in codes]


def _dense(part):
    part = columns_of(part, slice(None))
    # The smallest integer of a type has no magnitude in that type.
    return part if part.dtype.kind == "f" else part.astype(float32)


def infer_in_chunks(
    infer: Callable[..., Any],
    signals: Float[ArrayLike, "n input_dim"],
    chunk_size: int = 100,
    *,
    begun: Sequence[Any] = (),
) -> Any:
    """Encodes signals chunk by chunk, so that only one chunk of dense codes is in memory.

    Args:
      infer: maps signals, (chunk_size, input_dim), and the initial codes, if any, to a dataclass of
        arrays with one row a sample, `codes` among them, such as `Coded` or `Solution`.
      signals: (n, input_dim). Zeros fill up the last chunk, so that all have one shape.
      chunk_size: samples in a chunk, at most.
      begun: initial codes of the signals in any form, one for each encoder that `infer` goes on
        from.

    Returns:
      The result of `infer` for all signals, with codes as a sparse array. No value is rounded to 0.
    """
    host = asarray(signals)
    chunk_size = min(chunk_size, len(host))
    starts = _sliceable(begun)
    parts = []
    for rows in slices(len(host), chunk_size):
        chunk = host[rows]
        given = [chunk, *(_dense(form[rows]) for form in starts)]
        filled = (0, chunk_size - len(chunk)), (0, 0)
        inferred = infer(*(pad(part, filled) for part in given))
        arrays = {
            field.name: asarray(getattr(inferred, field.name))[: len(chunk)]
            for field in fields(inferred)
        }
        parts.append(arrays | {"codes": csr_array(arrays["codes"])})
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    return type(inferred)(
        codes=vstack(columns.pop("codes"), "csr"),
        **{name: concatenate(column) for name, column in columns.items()},
    )
