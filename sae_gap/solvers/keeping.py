"""Compiles functions by Numba, and keeps them on disk."""

import contextlib
import hashlib
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile


def kept(function: Callable, **options: Any) -> Any:
    """A function as `numba.njit` compiles it, kept beside its file or in the user's cache, where
    one of them can be written.

    It is compiled anew when a file of its folder changes, since it may call what stands there.

    Args:
      function: what to compile.
      **options: those of `numba.njit`.

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
        # Numba looks at the function's own file alone.
        files = sorted(pathlib.Path(inspect.getfile(function)).parent.glob("*.py"))
        stamp = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)
