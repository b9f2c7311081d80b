"""Rows of files, read in chunks or picked, and split by the documents that they come from."""

import dataclasses
import functools
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError

from sae_gap.core.checks import as_real, check_number, check_seed, check_size

# Contiguous pieces that rows of unknown documents are cut into, of which some are held out.
BLOCKS = 100
# Rows read at once where rows are picked or averaged, and rows between two picked ones that are cheaper read than skipped.
SPAN, NEAR = 4_096, 16
# What a file that is damaged may raise.
FAULTS = (
    *(OSError, EOFError, KeyError, RuntimeError, MemoryError, OverflowError, ValueError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)


class Table(NamedTuple):
    """An array in a file as rows. Documents that the file does not name are `counted`, from zero."""

    path: pathlib.Path
    num_rows: int
    width: int
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    documents: Int[np.ndarray, " num_rows"] | None
    counted: bool = False

    def rows(self, wanted: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Rows that rise, read from the first to the last."""
        start, stop = int(wanted[0]), int(wanted[-1]) + 1
        try:
            raw = self.read(start, stop)
        except FAULTS as error:
            raise ValueError(f"{self.path} cannot be read at rows {start} to {stop - 1} ({error}); write it again.") from None
        with np.errstate(over="ignore"):
            rows = np.asarray(raw if len(raw) == len(wanted) else raw[wanted - start], np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            bad = wanted[np.argmin(finite)]
            raise ValueError(f"row {bad} of {self.path} has a NaN or an infinity, as float32; drop or mend such rows.")
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """Rows of one or several files, or those of them that `split` chose. Opened by `open_activations`."""

    _tables: "tuple[Table, ...]"
    # (runs, 2): where each run of rows begins and ends, counted through all files.
    _runs: Int[np.ndarray, "runs 2"]

    @property
    def num_samples(self) -> int:
        """Number of rows."""
        return int((self._runs[:, 1] - self._runs[:, 0]).sum())

    @property
    def input_dim(self) -> int:
        """Dimension of a row."""
        return self._tables[0].width

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that the rows lie in, in their order."""
        return tuple(table.path for table in self._tables)

    @functools.cached_property
    def documents(self) -> Int[np.ndarray, " num_samples"] | None:
        """The document of each row, or None where the files do not tell."""
        if self._tables[0].documents is None:
            return None
        whole = np.concatenate([table.documents for table in self._tables])
        return np.concatenate([whole[start:stop] for start, stop in self._runs])

    def chunks(self, size: int) -> Iterator[Float[np.ndarray, "rows input_dim"]]:
        """All rows in their order, as float32, `size` at a time and fewer at the end.

        Raises:
          ValueError: a row holds a NaN or an infinity, or a file is damaged; the message names the file and the row.
        """
        check_size("size", size)
        for start in range(0, self.num_samples, size):
            yield self._gather(self._places(np.arange(start, min(start + size, self.num_samples))))

    def take(self, indices: Int[Any, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """The rows of these numbers, as float32, in the order in which they are asked for.

        Raises:
          ValueError: a number is no row's, or a row cannot be read or is not finite.
        """
        wanted = as_real("indices", indices, "a vector of integers")
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise ValueError(f"indices must be a vector of integers, but they are {wanted.dtype} of shape {wanted.shape}.")
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.num_samples:
            raise ValueError(
                f"indices must lie from 0 to {self.num_samples - 1}, but they go from {wanted.min()} to {wanted.max()}."
            )
        unique, back = np.unique(wanted.astype(np.int64), return_inverse=True)
        return self._gather(self._places(unique))[back]

    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """The mean of all rows, summed in float64."""
        total = np.zeros(self.input_dim)
        for chunk in self.chunks(SPAN):
            total += chunk.sum(axis=0, dtype=np.float64)
        return (total / self.num_samples).astype(np.float32)

    def split(self, held_out: float = 0.1, seed: int = 0) -> "tuple[Activations, Activations]":
        """A training part and a held-out part.

        Tokens of one text are alike, so that a token drawn by itself is hardly held out: its neighbours stay behind. Whole
        documents are therefore held out where the files tell them apart, drawn in random order as long as each brings the
        held-out share nearer to `held_out`. Elsewhere it is contiguous blocks, a hundredth of the rows each, at whose edges a
        text may still be cut in two. Rows are never drawn one by one.

        Args:
          held_out: share of the rows to hold out, about.
          seed: draws the documents or the blocks.

        Returns:
          The two parts, rows in the order of the files.

        Raises:
          ValueError: an argument is out of range, or there is only one document or row.
        """
        check_number("held_out", held_out, above=0, below=1)
        check_seed(seed)
        documents = self.documents
        if documents is None:
            documents = np.arange(self.num_samples) * min(BLOCKS, self.num_samples) // self.num_samples
        names, member, sizes = np.unique(documents, return_inverse=True, return_counts=True)
        if len(names) < 2:
            raise ValueError(f"{self.files[0]} holds one document alone; give several, some of which can be held out.")
        left, held = held_out * self.num_samples, np.zeros(len(names), bool)
        order = np.random.default_rng(seed).permutation(len(names))
        for name in order:
            if abs(left - sizes[name]) < abs(left):
                held[name] = True
                left -= sizes[name]
        if not held.any():
            held[order[np.argmin(sizes[order])]] = True
        if held.all():
            held[order[np.argmin(sizes[order])]] = False
        return self._where(~held[member]), self._where(held[member])

    def _where(self, chosen: Shaped[np.ndarray, " num_samples"]) -> "Activations":
        """The rows that are chosen, as the runs that they lie in."""
        places = self._places(np.flatnonzero(chosen))
        edges = np.flatnonzero(np.diff(places) != 1)
        starts, ends = places[np.concatenate([[0], edges + 1])], places[np.concatenate([edges, [len(places) - 1]])]
        return Activations(self._tables, np.stack([starts, ends + 1], axis=1))

    def _places(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Numbers of rows among all rows of all files."""
        ends = np.cumsum(self._runs[:, 1] - self._runs[:, 0])
        run = np.searchsorted(ends, rows, side="right")
        return rows + (self._runs[:, 1] - ends)[run]

    def _gather(self, places: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """The rows at places that rise, read in spans."""
        found = np.empty((len(places), self.input_dim), np.float32)
        done = first = 0
        for table in self._tables:
            stop = int(np.searchsorted(places, first + table.num_rows))
            while done < stop:
                # As far as the next gap.
                ahead = places[done : min(stop, done + SPAN)] - first
                gaps = np.flatnonzero(np.diff(ahead) > NEAR)
                ahead = ahead[: gaps[0] + 1] if gaps.size else ahead
                found[done : done + len(ahead)] = table.rows(ahead)
                done += len(ahead)
            first += table.num_rows
        return found
