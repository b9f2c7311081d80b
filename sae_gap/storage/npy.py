"""The header of an array as NumPy saves it, for arrays in the middle of other files; nothing in it
is executed.
"""

import math
from typing import IO, NamedTuple

import numpy as np

_READ = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# Headers are some hundred bytes long.
_LONGEST = 4_096


class Header(NamedTuple):
    """What a header says.

    Attributes:
      shape: of the array.
      dtype: of its numbers; objects are for the reader to refuse.
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
        # NumPy lets through whatever the parser of a damaged header raises, such as a TokenError.
        raise ValueError("it has no header of a NumPy array that can be read") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"its header gives the shape {shape}")
    return Header(shape, dtype, fortran, file.tell() - start)
