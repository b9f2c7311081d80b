"""Rows of files or of an array, read in chunks or picked by number, and split by the documents that
they come from.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_gap.core.checks import check_number, check_seed, check_size
from sae_gap.core.rows import evenly_spaced
from sae_gap.data.activations.outliers import Outliers, find_outliers, norms
from sae_gap.data.activations.tables import Table, in_memory
from sae_gap.storage.results import digest

# Contiguous blocks that stand for documents where the files name none.
BLOCKS = 100
# Numbers of rows that lie in memory together.
POOL = 2**29
# Rows that are read at once where rows are picked or averaged, and the widest gap between picked
# rows that is read too.
SPAN, NEAR = 4_096, 16


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """Rows of one or several files or of an array, or a part of them. Opened by
    `open_activations`.
    """

    _tables: tuple[Table, ...]
    # The number of each row among all rows of the files, ascending.
    numbers: Int[np.ndarray, " num_samples"]
    # The rows that outliers were left out of, by which a split draws its documents.
    _whole: "Activations | None" = None

    @property
    def num_samples(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    @property
    def input_dim(self) -> int:
        """Dimension of a row."""
        return self._tables[0].width

    @property
    def num_pooled(self) -> int:
        """How many rows lie in memory together."""
        return min(self.num_samples, max(1, POOL // self.input_dim))

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that hold the rows, in order; none where they are an array in memory."""
        return tuple(table.path for table in self._tables if isinstance(table.path, pathlib.Path))

    @functools.cached_property
    def documents(self) -> Int[np.ndarray, " num_samples"] | None:
        """The document of each row, or None where the files name none."""
        if self._tables[0].documents is None:
            return None
        return np.concatenate([table.documents for table in self._tables])[self.numbers]

    @functools.cached_property
    def outliers(self) -> Outliers:
        """The rows whose norm is beyond `outliers.FACTOR` times the median norm. All rows are read
        for it, in chunks.
        """
        if self._whole is not None:
            return Outliers(np.zeros(0, int), np.zeros(0), self.num_samples)
        return find_outliers(
            np.concatenate([norms(chunk) for chunk in self.chunks(SPAN)]), self.documents
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of every row, and of the documents and the numbers by which `split` draws."""
        whole = self if self._whole is None else self._whole
        named = "none" if whole.documents is None else whole.documents

        def arrays():
            yield from ((whole.num_samples, self.num_samples, self.input_dim), self.numbers, named)
            yield from self.chunks(SPAN)

        return digest(arrays())

    def copied(self) -> "Activations":
        """The same rows; those of an array in memory are copied, so that they no longer follow
        it.
        """
        tables = [
            table
            if isinstance(table.path, pathlib.Path)
            else table._replace(read=in_memory(np.array(table.read(0, table.num_rows))).read)
            for table in self._tables
        ]
        return dataclasses.replace(self, _tables=tuple(tables))

    def without_outliers(self) -> "Activations":
        """The rows that are no outliers. Split, they fall into the parts that they are in where
        outliers are kept.
        """
        if not len(self.outliers.rows):
            return self
        return Activations(self._tables, np.delete(self.numbers, self.outliers.rows), self)

    def chunks(self, size: int) -> Iterator[Float[np.ndarray, "rows input_dim"]]:
        """All rows in order, as float32, `size` at a time and fewer at the end.

        Raises:
          ValueError: a row holds a NaN or an infinity, or a file is damaged; the message names the
            file and the row.
        """
        check_size("size", size)
        for start in range(0, self.num_samples, size):
            yield self._gather(self.numbers[start : start + size])

    def take(self, indices: Int[Any, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """The rows of these numbers, as float32, in the order in which they are asked for.

        Raises:
          IndexError: a number is no row's.
          ValueError: a row cannot be read or is not finite.
        """
        if np.any(np.asarray(indices) < 0):
            raise IndexError(
                f"rows are numbered from 0 to {self.num_samples - 1}; give none below."
            )
        places, back = np.unique(self.numbers[indices], return_inverse=True)
        return self._gather(places)[back]

    def pool(self) -> Float[np.ndarray, "rows input_dim"]:
        """As many rows as lie in memory together, evenly spaced."""
        return self.take(evenly_spaced(self.num_samples, self.num_pooled))

    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """The mean of all rows, summed in float64."""
        total = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in self.chunks(SPAN))
        return (total / self.num_samples).astype(np.float32)

    def split(self, held_out: float = 0.1, seed: int = 0) -> "tuple[Activations, Activations]":
        """A training part and a held-out part.

        Tokens of one text are alike, so a token is held out in earnest only if its neighbours are
        too. Whole documents are therefore held out, drawn in random order as long as each brings
        the held-out share nearer to `held_out`. Where the files name no documents, contiguous
        blocks stand for them, a hundredth of the rows each; a text may be cut in two at their
        edges.

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
        held = (self if self._whole is None else self._whole)._drawn(held_out, seed)
        if self._whole is not None:
            held = np.delete(held, self._whole.outliers.rows)
        if held.all() or not held.any():
            raise ValueError(
                "no row is left on one side of the split, since all of its documents' are "
                "outliers; keep them."
            )
        return Activations(self._tables, self.numbers[~held]), Activations(
            self._tables, self.numbers[held]
        )

    def _drawn(self, held_out: float, seed: int) -> Bool[np.ndarray, " num_samples"]:
        """Which rows are held out."""
        documents = self.documents
        if documents is None:
            documents = (
                np.arange(self.num_samples) * min(BLOCKS, self.num_samples) // self.num_samples
            )
        names, member, sizes = np.unique(documents, return_inverse=True, return_counts=True)
        if len(names) < 2:
            raise ValueError(
                f"{self._tables[0].path} holds one document alone; give several, some of which can "
                "be held out."
            )
        left, held = held_out * self.num_samples, np.zeros(len(names), bool)
        order = np.random.default_rng(seed).permutation(len(names))
        for name in order:
            if abs(left - sizes[name]) < abs(left):
                held[name] = True
                left -= sizes[name]
        if held.all() or not held.any():
            smallest = order[np.argmin(sizes[order])]
            held[smallest] = not held[smallest]
        return held[member]

    def _gather(self, places: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """The rows at ascending places, read in spans that end at wide gaps."""
        gathered = np.empty((len(places), self.input_dim), np.float32)
        done = first = 0
        for table in self._tables:
            stop = int(np.searchsorted(places, first + table.num_rows))
            while done < stop:
                ahead = places[done : min(stop, done + SPAN)] - first
                gaps = np.flatnonzero(np.diff(ahead) > NEAR)
                ahead = ahead[: gaps[0] + 1] if gaps.size else ahead
                gathered[done : done + len(ahead)] = table.rows(ahead)
                done += len(ahead)
            first += table.num_rows
        return gathered
