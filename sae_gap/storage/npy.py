"""The header of an array as NumPy saves it, read as if from an enemy: nothing is evaluated but literals of one short line."""

import ast
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

# Headers are some hundred bytes long.
_LONGEST = 4_096


@runtime_checkable
class Readable(Protocol):
    """A file, or a member of an archive."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, as many as asked for or as are left."""
        ...


class Header(NamedTuple):
    """What a header says.

    Attributes:
      shape: of the array.
      dtype: of its numbers; it may be of objects, which are for the reader to refuse.
      fortran: whether columns come first.
      length: bytes of the header; the numbers follow.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    length: int

    @property
    def size(self) -> int:
        """Bytes of the numbers that it promises."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: Readable) -> Header:
    """Reads the header that a file is at; afterwards the file is at the numbers.

    Raises:
      ValueError: it is no header of version 1 or 2, or a damaged one.
    """
    magic = file.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY":
        raise ValueError("it is no array that NumPy saved")
    if magic[6] not in (1, 2):
        raise ValueError(f"the version {magic[6]} of its header is unknown")
    width = 2 if magic[6] == 1 else 4
    size = int.from_bytes(file.read(width), "little")
    if size > _LONGEST:
        raise ValueError("a header is too long")
    try:
        found: Any = ast.literal_eval(file.read(size).decode("latin1").strip())
        shape, fortran, dtype = found["shape"], found["fortran_order"], np.dtype(found["descr"])
    except (SyntaxError, TypeError, KeyError, IndexError, ValueError, AttributeError, MemoryError, RecursionError):
        raise ValueError("a header is damaged") from None
    plain = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
    if not plain or not isinstance(fortran, bool):
        raise ValueError("a header has an unknown form")
    return Header(shape, dtype, fortran, 8 + width + size)


__all__ = ["Header", "Readable", "read_header"]
