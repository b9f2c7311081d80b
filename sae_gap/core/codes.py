"""Codes of very many latents, of which few are ever active: held by their active columns, since all
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

# Codes of more latents are held by their active columns: those of 1,000 samples of a million
# latents would take 4 gigabytes.
DENSE_LATENTS = 20_000
# Codes of fewer latents are held by their non-zeros where there are more numbers than this: those
# of 100,000 samples of 16,384 latents would take 6 gigabytes.
DENSE_NUMBERS = 2**28
# Numbers of dense codes that are held at once where samples are looked at a few at a time.
_AT_ONCE = 2**22


class Codes(eqx.Module):
    """Codes `z`, (n, num_latents), as `z[:, latents] = values` and 0 elsewhere. Nothing is rounded
    away.

    Attributes:
      values: the active columns, (n, active); at least one, so that it is a matrix as any other.
      latents: which they are, (active,), ascending.
      num_latents: the width of the codes, all columns counted.
    """

    values: Float[Array, "n active"] | Float[np.ndarray, "n active"]
    latents: Int[Array, " active"] | Int[np.ndarray, " active"]
    num_latents: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, num_latents), as of the dense codes."""
        return self.values.shape[0], self.num_latents

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, place: Any) -> Any:
        """`codes[rows]`, the codes of a slice of samples, or `codes[:, latent]`, one column,
        (n,).
        """
        if isinstance(place, slice):
            return _compact(
                np.asarray(self.values)[place], np.asarray(self.latents), self.num_latents
            )
        rows, latent = place
        return self.at(np.array([range(self.num_latents)[latent]]))[rows, 0]

    def at(self, latents: Int[ArrayLike, " some"]) -> Float[np.ndarray, "n some"]:
        """The columns of some latents, of zeros where one is not active.

        Args:
          latents: indices below `num_latents`, in any order.

        Returns:
          One column for each, (n, some).
        """
        wanted, active = np.asarray(latents), np.asarray(self.latents)
        place = np.searchsorted(active, wanted).clip(max=len(active) - 1)
        return np.where(active[place] == wanted, np.asarray(self.values)[:, place], 0)

    def scaled(self, factors: Float[ArrayLike, " num_latents"]) -> "Codes":
        """Codes times one factor for each latent."""
        latents = np.asarray(self.latents)
        return Codes(
            np.asarray(self.values) * np.asarray(factors)[latents], latents, self.num_latents
        )

    def dense(self) -> Float[np.ndarray, "n num_latents"]:
        """The codes with all their columns, (n, num_latents)."""
        found = np.zeros(self.shape, self.dtype)
        found[:, np.asarray(self.latents)] = self.values
        return found

    @classmethod
    def from_dense(cls, codes: Float[ArrayLike, "n num_latents"]) -> "Codes":
        """The same codes by their active columns."""
        dense = np.asarray(codes)
        return _compact(dense, np.arange(dense.shape[1]), dense.shape[1])

    @classmethod
    def from_sparse(cls, codes: scipy.sparse.sparray | scipy.sparse.spmatrix) -> "Codes":
        """The same codes by their active columns, of a sparse array of any format, (n,
        num_latents).
        """
        codes = scipy.sparse.csr_array(codes)
        latents = np.unique(codes.indices[codes.data != 0])
        latents = latents if len(latents) else np.zeros(1, int)
        return cls(scipy.sparse.csc_array(codes)[:, latents].toarray(), latents, codes.shape[1])


# What metrics take in the place of dense codes; `sparse_code(…, sparse=True)` gives the latter.
SparseCodes = Codes | scipy.sparse.csr_array
# Codes in any form, (n, num_latents).
AnyCodes = Float[ArrayLike, "n _"] | SparseCodes


def by_columns(codes: Any) -> Any:
    """Codes as they are, but a sparse array as `Codes`."""
    return Codes.from_sparse(codes) if scipy.sparse.issparse(codes) else codes


def as_columns(codes: Any) -> np.ndarray:
    """The columns of codes that are worth a look: all of dense codes, the active ones of sparse
    ones.
    """
    held = by_columns(codes)
    # Masked entries must show to whoever checks the columns.
    return np.asanyarray(held.values if isinstance(held, Codes) else held)


def as_codes(codes: Any) -> Codes:
    """Codes of any form by their active columns."""
    held = by_columns(codes)
    return held if isinstance(held, Codes) else Codes.from_dense(held)


def dense_chunks(*codes: Any) -> Iterator[tuple[Any, ...]]:
    """Dense codes of a few samples at a time.

    Args:
      *codes: codes of the same samples, each in any form.

    Yields:
      Which samples, a slice, and the codes of these.
    """
    held = _sliceable(codes)
    size = max(1, _AT_ONCE // max(1, *(form.shape[1] for form in held)))
    for start in range(0, held[0].shape[0], size):
        rows = slice(start, start + size)
        yield rows, *(_dense(form[rows]) for form in held)


def _sliceable(codes: Sequence[Any]) -> list[Any]:
    """Codes in forms of which rows can be sliced."""
    return [scipy.sparse.csr_array(form) if scipy.sparse.issparse(form) else form for form in codes]


def _dense(part: Any) -> np.ndarray:
    if scipy.sparse.issparse(part):
        part = part.toarray()
    part = part.dense() if isinstance(part, Codes) else np.asarray(part)
    # The magnitude of the least integer overflows its type.
    return part if part.dtype.kind == "f" else part.astype(np.float32)


def join(pieces: Sequence[Codes]) -> Codes:
    """The codes of all samples, of pieces of one width with some samples each, in their order."""
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
    """What an encoder makes of signals, a chunk of them at a time, so that no more dense codes are
    ever held.

    Args:
      infer: of signals, (chunk_size, input_dim), and of the codes that they begin with, if any: a
        dataclass of arrays with one row a sample, `codes` among them, such as `Coded` or
        `Solution`.
      signals: (n, input_dim). The last chunk is filled up with zeros, for all to have one shape.
      chunk_size: samples in a chunk, at most.
      begun: codes of the signals to begin with, in any form, those of each encoder that is gone on
        from.
      sparse: whether to hold codes by their non-zeros, rather than by their active columns.

    Returns:
      What `infer` returns, of all signals, its codes as `Codes` or as a sparse array.
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
    """Codes of the columns that are active; of the first, if none is."""
    active = np.any(values != 0, axis=0)
    active[0] |= not active.any()
    return Codes(values[:, active], latents[active], num_latents)
