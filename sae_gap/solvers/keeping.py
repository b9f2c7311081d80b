"""Compiles functions by Numba, and keeps them on disk."""

import contextlib
import fcntl
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

    It is compiled anew when a file of its folder changes, since it may call what stands there. Of
    several processes one compiles, and the others wait for it.

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
        self._lock = contextlib.ExitStack()

    def load_overload(self, sig, target_context):
        self._lock.close()
        found = super().load_overload(sig, target_context)
        if found is None:
            with contextlib.suppress(OSError):
                self._impl.locator.ensure_cache_path()
                path = pathlib.Path(self._cache_path, f"{self._impl.filename_base}.lock")
                # Until it is saved, or the process ends.
                fcntl.flock(self._lock.enter_context(path.open("w")), fcntl.LOCK_EX)
                found = super().load_overload(sig, target_context)
        if found is not None:
            self._lock.close()
        return found

    def save_overload(self, sig, data):
        super().save_overload(sig, data)
        self._lock.close()
