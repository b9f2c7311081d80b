"""Codes of very many latents, few of them ever active: only the active columns are stored, as all
others are zero.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

# Above this width only the active columns are stored: dense codes of 1,000 samples of a million
# latents would take 4 gigabytes.
DENSE_LATENTS = 20_000
# Narrower codes with more numbers than this are stored by their non-zeros: dense codes of 100,000
# samples of 16,384 latents would take 6 gigabytes.
DENSE_NUMBERS = 2**28
# How many numbers of dense codes are held at once, where a few samples at a time will do.
_AT_ONCE = 2**22


class Codes(eqx.Module):
    """Codes `z`, (n, num_latents): `z[:, latents] = values`, and 0 elsewhere. No value is rounded
    to 0.

    Attributes:
      values: the active columns, (n, active); at least one, so that the matrix is never empty.
      latents: the numbers of these columns, (active,), ascending.
      num_latents: the width of the codes, all columns counted.
    """

    values: Float[Array, "n active"] | Float[np.ndarray, "n active"]
    latents: Int[Array, " active"] | Int[np.ndarray, " active"]
    num_latents: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the dense codes, (n, num_latents)."""
        return self.values.shape[0], self.num_latents

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, place: Any) -> Any:
        """`codes[rows]`: the codes of a slice of samples; `codes[:, latent]`: one column, (n,)."""
        if isinstance(place, slice):
            return _compact(
                np.asarray(self.values)[place], np.asarray(self.latents), self.num_latents
            )
        rows, latent = place
        return self.at(np.array([range(self.num_latents)[latent]]))[rows, 0]

    def at(self, latents: Int[ArrayLike, " some"]) -> Float[np.ndarray, "n some"]:
        """Returns the columns of some latents; an inactive latent gives zeros.

        Args:
          latents: indices below `num_latents`, in any order.

        Returns:
          One column for each, (n, some).
        """
        wanted, active = np.asarray(latents), np.asarray(self.latents)
        place = np.searchsorted(active, wanted).clip(max=len(active) - 1)
        return np.where(active[place] == wanted, np.asarray(self.values)[:, place], 0)

    def scaled(self, factors: Float[ArrayLike, " num_latents"]) -> "Codes":
        """Returns the codes times one factor for each latent."""
        latents = np.asarray(self.latents)
        return Codes(
            np.asarray(self.values) * np.asarray(factors)[latents], latents, self.num_latents
        )

    def dense(self) -> Float[np.ndarray, "n num_latents"]:
        """Returns the codes with all their columns, (n, num_latents)."""
        found = np.zeros(self.shape, self.dtype)
        found[:, np.asarray(self.latents)] = self.values
        return found

    @classmethod
    def from_dense(cls, codes: Float[ArrayLike, "n num_latents"]) -> "Codes":
        """Makes Codes of dense codes."""
        dense = np.asarray(codes)
        return _compact(dense, np.arange(dense.shape[1]), dense.shape[1])

    @classmethod
    def from_sparse(cls, codes: scipy.sparse.sparray | scipy.sparse.spmatrix) -> "Codes":
        """Makes Codes of a sparse array in any format, (n, num_latents)."""
        codes = scipy.sparse.csr_array(codes)
        latents = np.unique(codes.indices[codes.data != 0])
        latents = latents if len(latents) else np.zeros(1, int)
        return cls(scipy.sparse.csc_array(codes)[:, latents].toarray(), latents, codes.shape[1])


# Metrics take these in the place of dense codes; `sparse_code(…, sparse=True)` gives the latter.
SparseCodes = Codes | scipy.sparse.csr_array
# Codes in any form, (n, num_latents).
AnyCodes = Float[ArrayLike, "n _"] | SparseCodes


def by_columns(codes: Any) -> Any:
    """Turns a sparse array into `Codes`, and returns other codes unchanged."""
    return Codes.from_sparse(codes) if scipy.sparse.issparse(codes) else codes


def as_columns(codes: Any) -> np.ndarray:
    """Returns the columns that a check must look at: all columns of dense codes, the active ones of
    sparse codes.
    """
    held = by_columns(codes)
    # Masked entries must stay masked for the caller's check.
    return np.asanyarray(held.values if isinstance(held, Codes) else held)


def as_codes(codes: Any) -> Codes:
    """Turns codes of any form into `Codes`."""
    held = by_columns(codes)
    return held if isinstance(held, Codes) else Codes.from_dense(held)


def dense_chunks(*codes: Any) -> Iterator[tuple[Any, ...]]:
    """Gives dense codes, a few samples at a time.

    Args:
      *codes: codes of the same samples, each in any form.

    Yields:
      A slice of samples, and their codes.
    """
    held = _sliceable(codes)
    size = max(1, _AT_ONCE // max(1, *(form.shape[1] for form in held)))
    for start in range(0, held[0].shape[0], size):
        rows = slice(start, start + size)
        yield rows, *(_dense(form[rows]) for form in held)


def _sliceable(codes: Sequence[Any]) -> list[Any]:
    """Turns codes into forms whose rows can be sliced."""
    return [scipy.sparse.csr_array(form) if scipy.sparse.issparse(form) else form for form in codes]


def _dense(part: Any) -> np.ndarray:
    if scipy.sparse.issparse(part):
        part = part.toarray()
    part = part.dense() if isinstance(part, Codes) else np.asarray(part)
    # The smallest integer of a type has no magnitude in that type.
    return part if part.dtype.kind == "f" else part.astype(np.float32)


def join(pieces: Sequence[Codes]) -> Codes:
    """Joins the codes of consecutive pieces of samples; all have one width."""
    latents = np.unique(np.concatenate([np.asarray(piece.latents) for piece in pieces]))
    return _compact(
        np.concatenate([piece.at(latents) for piece in pieces]), latents, pieces[0].num_latents
    )


def infer_in_chunks(
    infer: Callable[..., Any],
    signals: Float[ArrayLike, "n input_dim"],
    chunk_size: int = 100,
    *,
    sparse: bool = False,
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
      sparse: whether to store codes by their non-zeros, rather than by their active columns.

    Returns:
      The result of `infer` for all signals, with codes as `Codes` or as a sparse array.
    """
    host = np.asarray(signals)
    chunk_size, held = min(chunk_size, len(host)), _sliceable(begun)
    parts: list[dict[str, Any]] = []
    for start in range(0, len(host), chunk_size):
        rows = slice(start, start + chunk_size)
        chunk = host[rows]
        given = [chunk, *(_dense(form[rows]) for form in held)]
        filled = (0, chunk_size - len(chunk)), (0, 0)
        inferred = infer(*(np.pad(part, filled) for part in given))
        arrays = {
            field.name: np.asarray(getattr(inferred, field.name))[: len(chunk)]
            for field in dataclasses.fields(inferred)
        }
        dense = arrays["codes"]
        parts.append(
            arrays | {"codes": scipy.sparse.csr_array(dense) if sparse else Codes.from_dense(dense)}
        )
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    pieces = columns.pop("codes")
    codes: Any = scipy.sparse.csr_array(scipy.sparse.vstack(pieces)) if sparse else join(pieces)
    return type(inferred)(
        codes=codes, **{name: np.concatenate(column) for name, column in columns.items()}
    )


def _compact(values: np.ndarray, latents: np.ndarray, num_latents: int) -> Codes:
    """Stores the active columns of codes, or the first column if none is active."""
    active = np.any(values != 0, axis=0)
    active[0] |= not active.any()
    return Codes(values[:, active], latents[active], num_latents)
