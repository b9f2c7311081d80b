"""How many cores there are, work shared among them, and BLAS kept to one of them."""

import concurrent.futures
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import scipy.linalg
import threadpoolctl

_LOCK = threading.Lock()
# The thread and the limit of each caller who is within; the first one to enter sets it, and the last one to leave takes it off.
_LIMITS: list[tuple[int, Any]] = []


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_cores(work: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    """The results of some work on each piece, on a thread for each core. Work must not call this again.

    A single piece is worked on here, as handing it over takes as long.
    """
    return list(map(work, pieces) if len(pieces) == 1 else _pool(os.getpid()).map(work, pieces))


@functools.cache
def _pool(process: int) -> concurrent.futures.ThreadPoolExecutor:
    """Threads that all callers in a process share, so that several at once do not get in each other's way."""
    return concurrent.futures.ThreadPoolExecutor(cores())


# Whatever compiles or runs a loop of a fit holds one of them, across calls and threads: more loops than cores that call back,
# as those of `online_dl` do, may wait for each other for ever.
LOOPS = threading.BoundedSemaphore(cores())


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps BLAS to one thread, for matrices so small that further ones wait for each other, and for bits that do not vary.

    The setting is one for all threads of the process. So it stays until the last of those who asked for it has left.
    """
    with _LOCK:
        if not _LIMITS:
            _take_control()
        caller = threading.get_ident(), _LIMITS[0][1] if _LIMITS else _controller().limit(limits=1, user_api="blas")
        _LIMITS.append(caller)
    try:
        yield
    finally:
        with _LOCK:
            _leave([caller])


def _leave(callers: list[tuple[int, Any]]) -> None:
    for caller in callers:
        _LIMITS.remove(caller)
    if callers and not _LIMITS:
        _take_control()
        callers[0][1].restore_original_limits()


def _begin_in_child() -> None:
    """Leaves for the threads of the parent, which a child of a fork does not have."""
    _leave([caller for caller in _LIMITS if caller[0] != threading.get_ident()])
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    # No thread is halfway in or out when the process is copied.
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_begin_in_child)


def _take_control() -> None:
    """Lets this thread set limits: from version 3.8 on the first thread to set any keeps the others from it, without a word."""
    for library in _controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    """The BLAS of NumPy and that of SciPy, which must be loaded by now."""
    assert scipy.linalg
    return threadpoolctl.ThreadpoolController()
