"""Reads the header of an array saved by NumPy, for arrays in the middle of other files; executes
nothing in it.
"""

import math
from typing import IO, NamedTuple

import numpy as np

_READ = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# Headers are some hundred bytes long.
_LONGEST = 4_096


class Header(NamedTuple):
    """The contents of a header.

    Attributes:
      shape: shape of the array.
      dtype: type of its numbers; the reader must refuse objects.
      fortran: whether the first axis varies fastest.
      length: bytes of the header; the numbers follow.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    length: int

    @property
    def size(self) -> int:
        """Bytes of the numbers that the header promises."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Reads the header at the position of a file, and leaves the file at the numbers.

    Raises:
      ValueError: there is no header of version 1 or 2, or it is damaged.
    """
    start = file.tell()
    try:
        read = _READ[np.lib.format.read_magic(file)]
        shape, fortran, dtype = read(file, max_header_size=_LONGEST)
    except Exception as error:
        # NumPy passes on whatever the parser raises for a damaged header, such as a TokenError.
        raise ValueError("it has no header of a NumPy array that can be read") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"its header gives the shape {shape}")
    return Header(shape, dtype, fortran, file.tell() - start)
