"""The number of cores, work shared among them, and BLAS limited to one thread."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock
from typing import Any

import scipy
from threadpoolctl import ThreadpoolController

_LOCK = Lock()
# One entry for each caller inside; the first to enter sets the limit, and the last to leave removes
# it.
_LIMITS: list[Any] = []


def cores() -> int:
    """The cores that this process may use."""
    return len(_allowed()) or os.cpu_count() or 1


def _allowed() -> set[int]:
    """The numbers of these cores, none where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def on_cores(work: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    """The results of `work` on each piece, on a thread for each core. `work` must not call this
    again.

    A single piece stays on this thread, since a handover takes as long.
    """
    return list(map(work, pieces) if len(pieces) == 1 else _pool().map(work, pieces))


@cache
def _pool() -> Any:
    """Threads that all callers in a process share, so that several at once do not slow each other
    down.
    """
    return ThreadPoolExecutor(cores())


if hasattr(os, "register_at_fork"):
    # A fork has none of the threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)

# Limits fits that compile or run a loop to one per core, across calls and threads: host callbacks
# of more loops, such as those of `online_dl`, may deadlock.
LOOPS = threading.BoundedSemaphore(cores())


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process's threads on one core, where the system can, so that processor time is
    that of one thread.
    """
    allowed = _allowed()
    _allow({*sorted(allowed)[:1]})
    try:
        yield
    finally:
        _allow(allowed)


def _allow(chosen: Any) -> Any:
    for thread in os.listdir("/proc/self/task") if chosen else ():
        # A thread may have ended.
        with suppress(OSError):
            os.sched_setaffinity(int(thread), chosen)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limits BLAS to one thread, for matrices so small that further threads only wait for each
    other, and for reproducible bits.

    The setting holds for all threads of the process, so it stays until the last caller has left.
    """
    with _LOCK:
        if not _LIMITS:
            _take_control()
        limit = (
            _LIMITS[0] if _LIMITS else _controller().limit(limits=1, user_api="blas")
        )
        _LIMITS.append(limit)
    try:
        yield
    finally:
        with _LOCK:
            _LIMITS.pop()
            if not _LIMITS:
                _take_control()
                limit.restore_original_limits()


def _take_control() -> Any:
    """Lets this thread set limits: from version 3.8 on the first thread to set any silently blocks
    the others.
    """
    for library in _controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@cache
def _controller() -> Any:
    """Controls the BLAS of NumPy and of SciPy, which must be loaded by now."""
    assert scipy.linalg
    return ThreadpoolController()
