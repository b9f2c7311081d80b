"""Compiles functions by Numba, and caches them on disk."""

import contextlib
import hashlib
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile


def kept(function: Callable, **options: Any) -> Any:
    """A function compiled by `numba.njit`, cached beside its file or in the user's cache, if one of
    them can be written.

    It is compiled again when a file of its folder changes, since it may call functions of these, or
    a number that its own file imports, since Numba compiles numbers in.

    Args:
      function: the function to compile.
      **options: options of `numba.njit`.

    Returns:
      The compiled function.
    """
    compiled = numba.njit(**options)(function)
    with contextlib.suppress(RuntimeError):
        compiled._cache = _Cache(function)
    return compiled


class _Cache(FunctionCache):
    def __init__(self, function):
        super().__init__(function)
        # Numba itself checks only the function's own file.
        files = sorted(pathlib.Path(inspect.getfile(function)).parent.glob("*.py"))
        numbers = [
            each for each in function.__globals__.items() if isinstance(each[1], int | float)
        ]
        parts = repr(numbers).encode(), *(file.read_bytes() for file in files)
        stamp = hashlib.sha256(b"\0".join(parts)).hexdigest()
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)
