"""Rows of files or of an array, read in chunks, picked by number, or split by their documents; all
kinds of file have a table of rows as their common form.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import (
    arange,
    array_equal,
    asarray,
    concatenate,
    diff,
    empty,
    flatnonzero,
    float32,
    float64,
    isfinite,
    repeat,
    searchsorted,
    unique,
    zeros,
)
from numpy.random import default_rng

from sae_gap.core import (
    RUNS,
    check_number,
    check_seed,
    check_size,
    evenly_spaced,
    runs,
    slices,
)
from sae_gap.data import ABOUT, Outliers, find_outliers, norms, read_by_mlp
from sae_gap.storage import digest, listed

# Most numbers that are held in memory as one array of rows.
POOL = 2**29
# Picking or averaging reads this many rows at once, and reads through gaps of up to `NEAR` rows
# between picked ones.
SPAN = 4_096
NEAR = 16
# The name of the array to read from a file with several, and of the array that names documents.
ACTIVATIONS = "activations"
DOCUMENTS = "documents"


class RefusedError(ValueError):
    """A fault of a file, as a whole sentence; a reader's other errors mean that the file is
    damaged.
    """


class Table(NamedTuple):
    """The rows of a file, or of an array in memory, whose `path` is a word for messages.

    `array` has a row for each entry of its first axis or, with three axes, of its first two.
    `counted` is True if the documents are numbered from zero because the file does not name them.
    """

    path: Path | str
    array: Any
    documents: Int[np.ndarray, " num_rows"] | None = None
    counted: bool = False

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return prod(self.array.shape[:-1])

    @property
    def width(self) -> int:
        """The dimension of a row."""
        return self.array.shape[-1]

    def rows(self, wanted: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Returns the rows of ascending numbers, as float32; reads all from the first to the last.

        Raises:
          ValueError: a row holds a NaN or an infinity, or the file is damaged.
        """
        start = int(wanted[0])
        stop = int(wanted[-1]) + 1
        length = self.num_rows // self.array.shape[0]
        first = start // length
        try:
            tokens = self.array[first : -(-stop // length)].reshape(-1, self.width)
        except Exception as error:
            raise ValueError(
                f"{self.path} cannot be read at rows {start} to {stop - 1} ({error}); write it "
                "again."
            ) from error
        raw = tokens[start - first * length : stop - first * length]
        with np.errstate(over="ignore"):
            rows = asarray(
                raw if len(raw) == len(wanted) else raw[wanted - start], float32
            )
        if not (finite := isfinite(rows).all(axis=1)).all():
            raise ValueError(
                f"row {wanted[np.argmin(finite)]} of {self.path} has a NaN or an infinity, as "
                "float32; drop or mend such rows."
            )
        return rows


def choose(path: Path, names: Sequence[str], key: str | None) -> str:
    """Returns the name of the array to read: `key` if given, else `activations`, else the only
    one.
    """
    if key is not None:
        if key not in names:
            raise RefusedError(
                f"{path} has no array {key!r}; choose one of {listed(names) or 'none'}."
            )
        return key
    others = [name for name in names if name != DOCUMENTS]
    if ACTIVATIONS in others:
        return ACTIVATIONS
    if len(others) == 1:
        return others[0]
    if others:
        raise RefusedError(
            f"{path} holds several arrays, {listed(names)}; name one with key."
        )
    raise RefusedError(f"{path} holds no activations; save them as {ACTIVATIONS}.")


def as_table(path: Path | str, array: Any, documents: Any = None) -> Table:
    """Makes a table of an array of rows, or of documents of equal length.

    Args:
      path: the file, or a word for an array in memory in messages.
      array: (rows, width), or (documents, tokens, width), whose tokens become the rows.
      documents: an integer for each row or, with three axes, for each document; None if the file
        names none.

    Raises:
      RefusedError: the array is not of floats, has the wrong axes or no entries, or `documents` do
        not fit it.
    """
    # NumPy has no bfloat16 and saves it as two raw bytes.
    array = array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array
    shape = array.shape
    dtype = array.dtype
    if dtype.kind != "f" and dtype != ml_dtypes.bfloat16:
        raise RefusedError(
            f"{path} must hold floating-point numbers, but they are {dtype}; save the activations "
            "as float32."
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise RefusedError(
            f"{path} must hold rows, or documents of rows, but its shape is {shape}; reshape it to "
            "(samples, input_dim)."
        )
    table = Table(path, array)
    total = table.num_rows
    count = shape[0]
    counted = documents is None
    if counted and len(shape) == 2:
        return table
    named = arange(count) if counted else documents
    each = total if named.shape == (total,) else count
    if named.shape != (each,) or named.dtype.kind not in "iu":
        raise RefusedError(
            f"the documents of {path} must be {each} integers, one a row, but they are "
            f"{named.dtype} of shape {named.shape}; save them so, or leave them out."
        )
    numbers = repeat(named.astype(np.int64), total // each)
    return Table(path, array, numbers, counted)


@dataclass(frozen=True, eq=False)
class Activations:
    """Rows of files or of an array, or a part of them; `open_activations` opens them."""

    _tables: tuple[Table, ...]
    # The number of each row among all rows of the files, ascending.
    numbers: Int[np.ndarray, " num_samples"]
    # The rows before outliers were left out: `split` draws documents from these.
    _whole: "Activations | None" = None
    # What a transcoder reads of all rows of the files.
    _inputs: "Activations | None" = None

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
        """Number of rows that fit into memory together."""
        return min(self.num_samples, max(1, POOL // self.input_dim))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the rows, in order; empty for an array in memory."""
        return tuple(
            table.path for table in self._tables if isinstance(table.path, Path)
        )

    @cached_property
    def documents(self) -> Int[np.ndarray, " num_samples"] | None:
        """The document of each row, or None where the files name none."""
        if self._tables[0].documents is None:
            return None
        return concatenate([table.documents for table in self._tables])[self.numbers]

    @cached_property
    def groups(self) -> Int[np.ndarray, " num_samples"]:
        """The document of each row or, where the files name none, its run of neighbours, as long as
        the correlation of their distances from the mean row asks for; see `core.rows.runs`.
        """
        if self.documents is not None:
            return self.documents
        if self._whole:
            return np.delete(self._whole.groups, self._whole.outliers.rows)
        mean = self.mean()
        return runs(concatenate([norms(chunk - mean) for chunk in self.chunks(SPAN)]))

    @cached_property
    def outliers(self) -> Outliers:
        """The rows whose norm exceeds `outliers.FACTOR` times the median norm, or whose input's
        does. Finding them reads all rows, in chunks.
        """
        if self._whole:
            return Outliers(zeros(0, int), zeros(0), self.num_samples)
        lengths = (
            concatenate(
                [
                    norms(chunk)
                    for chunk in replace(part, numbers=self.numbers).chunks(SPAN)
                ]
            )
            for part in (self, self._inputs)
            if part
        )
        return find_outliers(*lengths, documents=self.documents)

    def with_inputs(self, inputs: "Activations") -> "Activations":
        """Returns the same rows beside what a transcoder reads of them.

        Raises:
          ValueError: there are more or fewer of these, or of other documents, or they are the same.
        """
        whole = sum(table.num_rows for table in self._tables)
        if whole != inputs.num_samples:
            raise ValueError(
                f"there are {whole} targets for {inputs.num_samples} activations; give one "
                "of each for every token, in the same order."
            )
        first = range(min(self.num_samples, 10))
        if array_equal(self.take(first), inputs.take(self.numbers[first])):
            raise ValueError(
                "the targets are the activations themselves; give what is explained in a file of "
                "its own, or name what is read of a file of both by key."
            )
        if inputs.documents is not None:
            named = self.documents, inputs.documents[self.numbers]
            # Their names may differ.
            own, read = (
                None if part is None else unique(part, return_inverse=True)[1]
                for part in named
            )
            if not array_equal(own, read):  # type: ignore[arg-type]
                raise ValueError(
                    "the activations name documents, and the targets other ones or none; give both "
                    "the same, since whole documents are held out."
                )
        return replace(self, _inputs=inputs)

    @property
    def of_mlp(self) -> bool:
        """True if `record` wrote the rows as what an MLP adds to the stream, and those that a
        transcoder reads as what the same MLP reads: they are then a function of them.
        """
        read = [path.absolute() for path in self._inputs.files] if self._inputs else []
        if not read or not (read[0].parents[1] / ABOUT).exists():
            return False
        return read == [read_by_mlp(path.absolute()) for path in self.files]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all rows, and of the documents and the numbers that `split` draws by.

        Raises:
          ValueError: the rows of a file are not those of the digest that `record` wrote beside it.
        """
        whole = self._whole or self
        for path in whole.files:
            beside = path.with_suffix(".digest")
            if (
                beside.exists()
                and digest([np.load(path)]).encode() != beside.read_bytes()
            ):
                raise ValueError(
                    f"{path} is damaged: its rows are not those of its digest; remove it and "
                    "record again."
                )
        named: Any = whole.groups
        if whole.documents is None and named[-1] + 1 == min(RUNS[1], whole.num_samples):
            # Earlier keys stay.
            named = "none"
        first = (
            (whole.num_samples, self.num_samples, self.input_dim),
            self.numbers,
            named,
        )
        return digest(chain(first, self.chunks(SPAN)))

    def copied(self) -> "Activations":
        """Returns the same rows, with a copy of an array in memory, so that changes to it have no
        effect.
        """
        if self.files:
            return self
        (table,) = self._tables
        return replace(self, _tables=(table._replace(array=np.array(table.array)),))

    def without_outliers(self) -> "Activations":
        """Returns the rows that are no outliers. `split` puts each row into the part where it would
        be with the outliers.
        """
        if not len(self.outliers.rows):
            return self
        return Activations(
            self._tables, np.delete(self.numbers, self.outliers.rows), self
        )

    def chunks(self, size: int) -> Iterator[Float[np.ndarray, "rows input_dim"]]:
        """Gives all rows in order, as float32, `size` at a time and fewer at the end.

        Raises:
          ValueError: a row holds a NaN or an infinity, or a file is damaged; the message names the
            file and the row.
        """
        check_size("size", size)
        for part in slices(self.num_samples, size):
            yield self._gather(self.numbers[part])

    def take(self, indices: Int[Any, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """Returns the rows with these numbers, as float32, in the order of the numbers.

        Raises:
          IndexError: there is no row of a number.
          ValueError: a row cannot be read or is not finite.
        """
        if np.any(asarray(indices) < 0):
            raise IndexError(
                f"rows are numbered from 0 to {self.num_samples - 1}; give none below."
            )
        places, back = unique(self.numbers[indices], return_inverse=True)
        return self._gather(places)[back]

    def pool(self) -> Float[np.ndarray, "rows input_dim"]:
        """Returns as many rows as fit into memory together, evenly spaced."""
        return self.take(evenly_spaced(self.num_samples, self.num_pooled))

    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """Returns the mean of all rows, summed in float64."""
        total = sum(chunk.sum(axis=0, dtype=float64) for chunk in self.chunks(SPAN))
        return (total / self.num_samples).astype(float32)

    def split(
        self, held_out: float = 0.1, seed: int = 0
    ) -> "tuple[Activations, Activations]":
        """Splits the rows into a training part and a held-out part.

        Neighbouring tokens of a text are alike, so holding out a token is only a test if its
        neighbours are held out too. The split therefore draws whole documents in random order, as
        long as each brings the held-out share nearer to `held_out`. If the files name no documents,
        the runs of `groups` replace them; their edges may cut a text in two.

        Args:
          held_out: the approximate share of rows to hold out.
          seed: draws the documents or the runs.

        Returns:
          The two parts, rows in the order of the files.

        Raises:
          ValueError: an argument is out of range, or there is only one document or row.
        """
        check_number("held_out", held_out, above=0, below=1)
        check_seed(seed)
        held = (self._whole or self)._drawn(held_out, seed)
        if self._whole:
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
        """Marks the rows that are held out."""
        names, member, sizes = unique(
            self.groups, return_inverse=True, return_counts=True
        )
        if len(names) < 2:
            raise ValueError(
                f"{self._tables[0].path} holds one document alone; give several, some of which can "
                "be held out."
            )
        left = held_out * self.num_samples
        held = zeros(len(names), bool)
        order = default_rng(seed).permutation(len(names))
        for name in order:
            if abs(left - sizes[name]) < abs(left):
                held[name] = True
                left -= sizes[name]
        if held.all() or not held.any():
            smallest = order[np.argmin(sizes[order])]
            held[smallest] = not held[smallest]
        return held[member]

    def _gather(
        self, places: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows input_dim"]:
        """Reads the rows at ascending places, in spans that end at wide gaps."""
        gathered = empty((len(places), self.input_dim), float32)
        done = first = 0
        for table in self._tables:
            stop = int(searchsorted(places, first + table.num_rows))
            while done < stop:
                ahead = places[done : min(stop, done + SPAN)] - first
                gaps = flatnonzero(diff(ahead) > NEAR)
                ahead = ahead[: gaps[0] + 1] if gaps.size else ahead
                gathered[done : done + len(ahead)] = table.rows(ahead)
                done += len(ahead)
            first += table.num_rows
        return gathered
