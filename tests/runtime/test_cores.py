"""BLAS stays at one thread until the last of those who asked for it has left."""

import concurrent.futures
import contextlib
import subprocess
import sys

import pytest
import threadpoolctl

from sae_gap.runtime import cores
from sae_gap.runtime.cores import one_blas_thread


def threads():
    """Of the BLAS of NumPy and of SciPy: a peer, such as SPAMS, may have loaded one of its own since."""
    return [library["num_threads"] for library in cores._controller().info() if library["user_api"] == "blas"]


def test_the_limit_ends_with_the_last_of_those_who_overlap():
    with threadpoolctl.threadpool_limits(2, "blas"), contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        before = threads()
        first.enter_context(one_blas_thread())
        second.enter_context(one_blas_thread())
        first.close()
        assert before and set(threads()) == {1}
        second.close()
        assert threads() == before and set(before) == {2}


def test_any_thread_may_ask_for_it():
    def limited():
        with one_blas_thread():
            return threads()

    with threadpoolctl.threadpool_limits(2, "blas"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert set(limited()) == {1} and set(pool.submit(limited).result()) == {1} and set(threads()) == {2}


FORK = """
import os, sys, threading
import threadpoolctl
from sae_gap.runtime.cores import one_blas_thread

def threads():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}

def stay():
    with one_blas_thread():
        entered.set()
        leave.wait()

threadpoolctl.threadpool_limits(2, "blas")
entered, leave = threading.Event(), threading.Event()
other = threading.Thread(target=stay)
other.start()
entered.wait()
own = one_blas_thread()
if sys.argv[1] == "within":
    own.__enter__()
child = os.fork()
if child == 0:
    if sys.argv[1] == "within":
        assert threads() == {1}
        own.__exit__(None, None, None)
    assert threads() == {2}
    with one_blas_thread():
        assert threads() == {1}
    assert threads() == {2}
    os._exit(0)
assert threads() == {1} and os.waitpid(child, 0)[1] == 0
leave.set()
other.join()
"""


@pytest.mark.parametrize("place", ["outside", "within"])
def test_a_child_of_a_fork_has_no_limit_but_its_own(place):
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK, place], check=True, timeout=60)
