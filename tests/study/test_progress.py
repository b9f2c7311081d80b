"""One line on a terminal, a line in the log for each job elsewhere, and silence unless asked."""

import io
import os
import threading

import pytest
from absl import logging

from sae_gap.study import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def last(stream):
    return stream.getvalue().rpartition("\r\x1b[K")[2]


def test_a_line_says_how_far_the_run_is_and_what_is_left(clock):
    stream = io.StringIO()
    line = progress.Line(stream)
    line.begin(5, 1)
    line.start(2, "sae_topk, frozen_topk")
    assert last(stream) == "1/5 jobs, ...: sae_topk, frozen_topk"
    clock[0] += 80
    line.fit("topk", 0, 0.75)
    line.fit("topk", 1, 0.5)
    clock[0] += 80
    line.fit("topk", 0, 1.0)
    # The slower of the two seeds: half of the fit, which is 0.8 of a job, in 160 s, and so 3.6 jobs to go.
    assert last(stream) == "1/5 jobs, fit 50%, 24 min 00 s left: sae_topk, frozen_topk"
    clock[0] += 40
    line.scored()
    assert last(stream).startswith("1/5 jobs, scoring, 1 rows, 30 min 00 s left: sae_topk")
    line.start(3, "dl_fista")
    # One of four jobs took 200 s.
    assert last(stream) == "2/5 jobs, ..., 10 min 00 s left: dl_fista"
    line.end()
    assert last(stream) == "" and "\n" not in stream.getvalue()


def test_fits_that_are_made_ahead_count_for_the_jobs_to_come(clock):
    stream = io.StringIO()
    line = progress.Line(stream)
    line.begin(4, 0)
    line.ahead(["sae_topk", "sae_relu"], 4)
    assert last(stream) == "0/4 jobs, ...: 4 fits for 2 jobs"
    clock[0] += 80
    line.fit("sae_topk", 0, 1.0)
    clock[0] += 80
    line.fit("sae_relu", 0, 1.0)
    # Half of the fits of two jobs are 0.8 of a job, in 160 s, and so 3.2 jobs to go.
    assert last(stream) == "0/4 jobs, fit 50%, 10 min 40 s left: 4 fits for 2 jobs"
    line.start(1, "linear_probe")
    # The fits of two others are done, 1.6 jobs in 160 s.
    assert last(stream) == "0/4 jobs, ..., 4 min 00 s left: linear_probe"
    line.start(2, "sae_topk")
    assert last(stream) == "1/4 jobs, ..., 1 min 26 s left: sae_topk"
    line.start(3, "sae_relu")
    assert last(stream) == "2/4 jobs, ..., 1 min 09 s left: sae_relu"
    line.start(4, "dl_fista")
    assert last(stream) == "3/4 jobs, ..., 53 s left: dl_fista"


def test_a_line_is_short_and_seldom_written(clock):
    stream = io.StringIO()
    line = progress.Line(stream)
    line.begin(1, 0)
    line.start(1, "x" * 500)
    assert len(last(stream)) <= 110
    before = stream.getvalue()
    for share in (0.1, 0.2, 0.3):
        line.fit("topk", 0, share)
    assert stream.getvalue() == before
    clock[0] += 0.3
    line.fit("topk", 0, 0.4)
    assert stream.getvalue() != before


def test_what_is_logged_begins_a_line_of_its_own(caplog):
    stream = io.StringIO()
    line = progress.Line(stream)
    line.begin(1, 0)
    line.start(1, "x")
    assert last(stream) == "0/1 jobs, ...: x"
    logging.warning("a line")
    assert last(stream) == "" and caplog.messages == ["a line"]
    line.end()
    length = len(stream.getvalue())
    logging.warning("another")
    assert len(stream.getvalue()) == length


def test_a_line_is_no_wider_than_its_terminal(monkeypatch):
    stream = io.StringIO()
    line = progress.Line(stream)
    for columns, width in ((40, 39), (500, 110)):
        monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda _, n=columns: os.terminal_size((n, 24)))
        line.begin(1, 0)
        line.start(1, "x" * 200)
        line.end()
        assert max(map(len, stream.getvalue().split("\r\x1b[K"))) == width


def test_threads_may_tell_at_once():
    stream = io.StringIO()
    line = progress.Line(stream)
    line.begin(1, 0)
    line.start(1, "x")
    threads = [
        threading.Thread(target=lambda seed=seed: [line.fit("topk", seed, i / 200) for i in range(200)]) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(line._shares) == {("topk", seed) for seed in range(4)} and min(line._shares.values()) == 199 / 200


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3_599, "59 min 59 s"), (7_320, "2 h 2 min")]
)
def test_durations_are_readable(seconds, said):
    assert progress._clock(seconds) == said


def test_a_log_has_a_line_for_each_job(caplog, capsys):
    with caplog.at_level("INFO"):
        log = progress.Log()
        log.begin(3, 1)
        log.start(2, "sae_topk")
        log.fit("topk", 0, 0.5)
        log.scored()
        log.start(3, "dl_fista")
        log.end()
    assert [record.getMessage() for record in caplog.records] == ["2/3: sae_topk", "3/3: dl_fista"]
    assert not log.watching and progress.Line(io.StringIO()).watching


def test_nobody_is_told_by_default(capfd, caplog):
    silent = progress.Progress()
    with caplog.at_level("INFO"):
        silent.begin(3, 0)
        silent.start(1, "x")
        silent.fit("topk", 0, 0.5)
        silent.scored()
        silent.end()
    assert capfd.readouterr() == ("", "") and not caplog.records and not silent.watching


def test_where_nobody_looks_the_log_is_written(monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    assert isinstance(progress.here(), progress.Log)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress.here(), progress.Line)
