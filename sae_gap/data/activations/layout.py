"""What every kind of file must come to: an array that is read in pieces, as rows, with the documents that they are of."""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from sae_gap.data.activations.rows import Table

# What the array is called where a file holds several, and that of its documents.
ACTIVATIONS, DOCUMENTS = "activations", "documents"
# No model is as wide; a header that says more is damaged or hostile.
MOST_DIMS = 2**20


class Array(NamedTuple):
    """An array in a file, read along its first axis from one index up to another."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]


class RefusedError(Exception):
    """A sentence on what a file holds, which needs no further words."""


def choose(path: pathlib.Path, names: Sequence[str], key: str | None) -> str:
    """The name of the array to read: the one asked for, else `activations`, else the only one that there is."""
    said = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
    if key is not None:
        if key not in names:
            raise RefusedError(f"{path} has no array {key!r}; " + (f"choose one of {said}." if names else "it has none."))
        return key
    if ACTIVATIONS in names:
        return ACTIVATIONS
    others = [name for name in names if name != DOCUMENTS]
    if len(others) != 1:
        raise RefusedError(
            f"{path} holds {'several arrays, ' + said if others else 'no activations'}; "
            f"{'name one with key' if others else f'save them as {ACTIVATIONS}'}."
        )
    return others[0]


def as_table(path: pathlib.Path, array: Array, documents: Array | None, *, counted: bool = False) -> Table:
    """An array of rows, or of documents of equally many rows, with the documents that the file names."""
    shape, dtype = array.shape, array.dtype
    if dtype.hasobject:
        raise RefusedError(f"{path} holds pickled objects, which are never loaded; save plain numeric arrays.")
    if dtype.kind != "f" and dtype != ml_dtypes.bfloat16:
        raise RefusedError(f"{path} must hold floating-point numbers, but they are {dtype}; save the activations as float32.")
    if len(shape) not in (2, 3) or 0 in shape:
        raise RefusedError(
            f"{path} must hold rows, or documents of rows, but its shape is {shape}; reshape it to (samples, input_dim)."
        )
    if shape[-1] > MOST_DIMS:
        raise RefusedError(
            f"{path} says that it has {shape[-1]} dimensions, more than {MOST_DIMS}; write it as (samples, input_dim)."
        )
    if len(shape) == 2:
        named = None if documents is None else read_documents(path, documents, shape[0])
        return Table(path, *shape, dtype, array.read, named, counted)
    count, length, width = shape

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = start // length, -(-stop // length)
        return array.read(first, last).reshape(-1, width)[start - first * length : stop - first * length]

    if documents is None:
        return Table(path, count * length, width, dtype, rows, np.repeat(np.arange(count), length), True)
    each = documents.shape == (count * length,)
    named = read_documents(path, documents, count * length if each else count)
    return Table(path, count * length, width, dtype, rows, named if each else np.repeat(named, length))


def read_documents(path: pathlib.Path, documents: Array, count: int) -> np.ndarray:
    """The documents that a file names, read only if there are as many as there should be."""
    if documents.shape != (count,) or documents.dtype.kind not in "iu":
        raise RefusedError(
            f"the documents of {path} must be {count} integers, one a row, but they are {documents.dtype} of shape "
            f"{documents.shape}."
        )
    return documents.read(0, count).astype(np.int64)


def vector(values: np.ndarray) -> Array:
    """Numbers that are in memory already."""
    return Array(values.shape, values.dtype, lambda start, stop: values[start:stop])


def mapped(path: pathlib.Path, begin: int, shape: tuple[int, ...], dtype: np.dtype, *, fortran: bool = False) -> Array:
    """Numbers that lie in a file as they are, from a byte on, memory-mapped; `fortran`, column after column."""
    if dtype.hasobject or math.prod(shape) == 0:
        return Array(shape, dtype, lambda start, stop: np.zeros(0))
    numbers = np.memmap(path, dtype, "r", begin, shape, "F" if fortran else "C")
    return Array(shape, dtype, lambda start, stop: numbers[start:stop])
