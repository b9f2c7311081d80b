"""BLAS stays at one thread until the last of those who asked for it has left, and threads on one
core as long as they are asked to.
"""

import concurrent.futures
import contextlib
import os
from contextlib import suppress

from pytest import fixture, mark

from sae_gap.runtime import cores, one_blas_thread


def threads():
    """Of the BLAS of NumPy and of SciPy: a peer, such as SPAMS, may have loaded one of its own
    since.
    """
    found = cores._controller().info()
    return {
        library["num_threads"] for library in found if library["user_api"] == "blas"
    }


@fixture
def two_threads():
    """Of each BLAS, whoever set a limit last, and in whatever order tests load them."""
    cores._take_control()
    with cores._controller().limit(limits=2, user_api="blas"):
        yield


def test_the_limit_ends_with_the_last_of_those_who_overlap(two_threads):
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(one_blas_thread())
        second.enter_context(one_blas_thread())
        first.close()
        assert threads() == {1}
        second.close()
        assert threads() == {2}


def test_any_thread_may_ask_for_it(two_threads):
    def limited():
        with one_blas_thread():
            return threads()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert limited() == pool.submit(limited).result() == {1} and threads() == {2}


@mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no such call")
def test_all_threads_keep_to_one_core_and_leave_it_again():
    def allowed():
        return {
            len(os.sched_getaffinity(int(thread)))
            for thread in os.listdir("/proc/self/task")
        }

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(allowed).result()
        count = cores.cores()
        with suppress(KeyError), cores.one_core():
            assert cores.cores() == 1 and allowed() == {1}
            raise KeyError
        assert cores.cores() == count and allowed() == {count}
