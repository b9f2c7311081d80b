"""How many cores there are, work shared among them, and BLAS kept to one of them."""

import concurrent.futures
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import scipy
import threadpoolctl

_LOCK = threading.Lock()
# The limit, once for each caller who is within; the first one to enter sets it, and the last one to
# leave takes it off.
_LIMITS: list[Any] = []


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_cores(work: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    """The results of some work on each piece, on a thread for each core. Work must not call this
    again.

    A single piece is worked on here, as handing it over takes as long.
    """
    return list(map(work, pieces) if len(pieces) == 1 else _pool().map(work, pieces))


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    """Threads that all callers in a process share, so that several at once do not get in each
    other's way.
    """
    return concurrent.futures.ThreadPoolExecutor(cores())


# Whatever compiles or runs a loop of a fit holds one of them, across calls and threads: more loops
# than cores that call back, as those of `online_dl` do, may wait for each other for ever.
LOOPS = threading.BoundedSemaphore(cores())


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps BLAS to one thread, for matrices so small that further ones wait for each other, and
    for bits that do not vary.

    The setting is one for all threads of the process. So it stays until the last of those who asked
    for it has left.
    """
    with _LOCK:
        if not _LIMITS:
            _take_control()
        limit = _LIMITS[0] if _LIMITS else _controller().limit(limits=1, user_api="blas")
        _LIMITS.append(limit)
    try:
        yield
    finally:
        with _LOCK:
            _LIMITS.pop()
            if not _LIMITS:
                _take_control()
                limit.restore_original_limits()


def _take_control() -> None:
    """Lets this thread set limits: from version 3.8 on the first thread to set any keeps the others
    from it, without a word.
    """
    for library in _controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    """The BLAS of NumPy and that of SciPy, which must be loaded by now."""
    assert scipy.linalg
    return threadpoolctl.ThreadpoolController()
