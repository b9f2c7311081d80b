"""BLAS stays at one thread until the last of those who asked for it has left."""

import concurrent.futures
import contextlib

import threadpoolctl

from sae_gap.runtime import cores
from sae_gap.runtime.cores import one_blas_thread


def threads():
    """Of the BLAS of NumPy and of SciPy: a peer, such as SPAMS, may have loaded one of its own
    since.
    """
    return [
        library["num_threads"]
        for library in cores._controller().info()
        if library["user_api"] == "blas"
    ]


def test_the_limit_ends_with_the_last_of_those_who_overlap():
    with (
        threadpoolctl.threadpool_limits(2, "blas"),
        contextlib.ExitStack() as first,
        contextlib.ExitStack() as second,
    ):
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

    with (
        threadpoolctl.threadpool_limits(2, "blas"),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        assert (
            set(limited()) == {1}
            and set(pool.submit(limited).result()) == {1}
            and set(threads()) == {2}
        )
