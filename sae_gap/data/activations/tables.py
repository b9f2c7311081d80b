"""A table of rows, read in pieces, with the document of each row: the common form of all kinds of
file, and of an array.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

# The name of the array to read from a file with several, and of the array that names documents.
ACTIVATIONS, DOCUMENTS = "activations", "documents"


class RefusedError(ValueError):
    """A fault of a file, as a whole sentence; a reader's other errors mean that the file is
    damaged.
    """


class Table(NamedTuple):
    """The rows of a file, or of an array in memory, whose `path` is a word for messages.

    `array` has a row for each entry of its first axis or, with three axes, of its first two.
    `counted` is True if the documents are numbered from zero because the file does not name them.
    """

    path: pathlib.Path | str
    array: Any
    documents: Int[np.ndarray, " num_rows"] | None = None
    counted: bool = False

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return math.prod(self.array.shape[:-1])

    @property
    def width(self) -> int:
        """The dimension of a row."""
        return self.array.shape[-1]

    def rows(self, wanted: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Returns the rows of ascending numbers, as float32; reads all from the first to the last.

        Raises:
          ValueError: a row holds a NaN or an infinity, or the file is damaged.
        """
        start, stop = int(wanted[0]), int(wanted[-1]) + 1
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
            rows = np.asarray(raw if len(raw) == len(wanted) else raw[wanted - start], np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            bad = wanted[np.argmin(finite)]
            raise ValueError(
                f"row {bad} of {self.path} has a NaN or an infinity, as float32; drop or mend such "
                "rows."
            )
        return rows


def choose(path: pathlib.Path, names: Sequence[str], key: str | None) -> str:
    """Returns the name of the array to read: `key` if given, else `activations`, else the only
    one.
    """
    listed = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
    if key is not None:
        if key not in names:
            raise RefusedError(f"{path} has no array {key!r}; choose one of {listed or 'none'}.")
        return key
    others = [name for name in names if name != DOCUMENTS]
    if ACTIVATIONS in others:
        return ACTIVATIONS
    if len(others) == 1:
        return others[0]
    fault = (
        f"several arrays, {listed}; name one with key"
        if others
        else f"no activations; save them as {ACTIVATIONS}"
    )
    raise RefusedError(f"{path} holds {fault}.")


def as_table(path: pathlib.Path | str, array: Any, documents: Any = None) -> Table:
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
    shape, dtype = array.shape, array.dtype
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
    table = Table(path, array, counted=documents is None)
    total, count = table.num_rows, shape[0]
    if documents is None and len(shape) == 2:
        return table._replace(counted=False)
    named = np.arange(count) if documents is None else documents
    each = total if named.shape == (total,) else count
    if named.shape != (each,) or named.dtype.kind not in "iu":
        raise RefusedError(
            f"the documents of {path} must be {each} integers, one a row, but they are "
            f"{named.dtype} of shape {named.shape}; save them so, or leave them out."
        )
    return table._replace(documents=np.repeat(named.astype(np.int64), total // each))
