"""Compiles functions by Numba, and keeps them on disk."""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
from absl import logging
from numba.core.caching import FunctionCache


def kept(function: Callable, **options: Any) -> Any:
    """A function as `numba.njit` compiles it, kept beside its file or in the user's cache, where one of them can be written.

    A damaged file is compiled anew. A disk that is full is only warned of.

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
    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            # Damaged bytes may raise anything. The index begins anew, without them.
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            logging.warning("a compiled loop cannot be kept, so that each process compiles it anew: %s", error)
