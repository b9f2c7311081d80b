"""Processes find each other at the port of the first, or all that are there hear what is wrong."""

import concurrent.futures
import socket

import pytest

from sae_gap.runtime import roll_call
from sae_gap.runtime.roll_call import RollCall


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def hold(*calls):
    """What each of some roll calls ends with, all held at once: None, or its sentence."""

    def end(call):
        try:
            call.hold()
        except ValueError as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(end, calls))


def of(port, *started, timeout=20.0):
    """Roll calls of processes that were told these indices and counts."""
    return [RollCall(f"localhost:{port}", count, index, timeout) for index, count in started]


def test_all_go_on_once_all_are_there_and_the_port_is_free_again(port):
    for _ in range(2):
        assert hold(*of(port, (2, 3), (0, 3), (1, 3))) == [None] * 3
    assert hold(*of(port, (0, 1))) == [None]


def test_processes_that_were_told_different_counts_all_hear_it(port):
    fault = "num_processes is 3 for process 1, but 2 for process 0; give all the same."
    assert hold(*of(port, (0, 2), (1, 3))) == [fault] * 2
    assert hold(*of(port, (0, 3), (1, 3), (2, 2)))[0].startswith("num_processes is 2 for process 2, but 3 for process 0")


def test_an_index_that_comes_twice_is_named_in_all(port):
    fault = "two processes have process_id 1; give each its own, from 0 to 2."
    assert hold(*of(port, (0, 3), (1, 3), (1, 3))) == [fault] * 3


def test_process_0_does_not_wait_long_for_those_that_are_late(port, monkeypatch):
    monkeypatch.setattr(roll_call, "_LATE", 0.1)
    assert len(set(hold(*of(port, (0, 9), (1, 2))))) == 1


def test_who_comes_late_hears_what_was_wrong(port, monkeypatch):
    monkeypatch.setattr(roll_call, "_LATE", 60.0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ended = pool.submit(hold, *of(port, (0, 4)))
        faults = hold(*of(port, (1, 3)))
        assert hold(*of(port, (2, 4), (3, 4))) == faults * 2 == ended.result() * 2


def test_who_is_missing_is_named_in_all_that_are_there(port):
    fault = f"processes 2, 3 of 4 did not come to the coordinator localhost:{port} within 0.5 s; "
    fault += "start all, each with its own process_id."
    assert hold(*of(port, (0, 4), timeout=0.5), *of(port, (1, 4))) == [fault] * 2
    assert hold(*of(port, (0, 2), timeout=0.1))[0].startswith("process 1 of 2 did not come")
    (many,) = hold(*of(port, (0, 8), timeout=0.1))
    assert many.startswith("processes 1, 2, 3, 4, 5 and 2 more of 8 did not come")


def test_nobody_hangs_where_no_process_0_is(port):
    unanswered = (
        f"the coordinator localhost:{port} did not answer within 0.5 s; check its address, and that process 0 was started."
    )
    assert hold(*of(port, (1, 2), timeout=0.5)) == [unanswered]
    assert hold(RollCall(f"{'x' * 70}:1", 2, 1, 0.5))[0].startswith("the coordinator xxx")
    with socket.create_server(("localhost", port)) as server:
        # It takes the call, and says nothing.
        assert hold(*of(port, (1, 2), timeout=0.5))[0].startswith("not all 2 processes joined")
        server.accept()[0].close()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            (call,) = of(port, (1, 2), timeout=0.5)
            ended = pool.submit(hold, call)
            # Something else answers, and hangs up.
            with server.accept()[0] as other:
                other.sendall(b"SSH-2.0-OpenSSH\r\n")
            server.close()
            assert ended.result() == [unanswered]


def test_strangers_and_those_that_gave_up_are_no_processes(port):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first, second, third = of(port, (0, 3), (1, 3), (2, 3))
        ended = pool.submit(hold, first)
        # Waits for process 2 in vain.
        (impatient,) = of(port, (1, 3), timeout=1.0)
        assert hold(impatient)[0].startswith("not all 3 processes joined")
        strangers = [socket.create_connection(("localhost", port)) for _ in range(6)]
        for one, said in zip(
            strangers,
            (b"GET / HTTP/1.0\r\n\r\n", b"sae_gap x 3\n", b"x" * 9_000, b"", b"sae_gap 2", b"other 1 3\n"),
            strict=True,
        ):
            one.sendall(said)
        strangers[3].close()
        assert hold(second, third) == [None] * 2 and ended.result() == [None]
        for one in strangers:
            one.close()
