"""How far a run is: one line on a terminal or in a notebook, a line in the log for each job elsewhere."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from absl import logging


class Progress:
    """Says nothing unless told where; see `Line` for a terminal and `Log` for everything else."""

    # Whether anyone looks often enough for a fit to stop and tell.
    watching = False

    def begin(self, jobs: int, done: int) -> None:
        """A run of so many jobs begins, of which some are done already."""

    def ahead(self, names: Sequence[str], fits: int) -> None:
        """The learners of some jobs are fitted together, before any of these jobs begins: so many seeds in all.

        Until the next job begins, `fit` is told the name of the job in the place of that of the learner.
        """

    def fitted(self, name: str) -> None:
        """All seeds of such a job are fitted."""

    def start(self, job: int, name: str) -> None:
        """A job begins."""

    def fit(self, learner: str, seed: int, share: float) -> None:
        """A fit has come so far."""

    def scored(self) -> None:
        """A row is there."""

    def end(self) -> None:
        """The run is done, or has failed."""


class Log(Progress):
    """A line in the log for each job."""

    def begin(self, jobs, done):
        self._jobs = jobs

    def ahead(self, names, fits):
        self._waiting = len(names)
        logging.info("fitting the learners of %d jobs together", len(names))

    def fitted(self, name):
        self._waiting -= 1
        logging.info("fitted, %d to go: %s", self._waiting, name)

    def start(self, job, name):
        logging.info("%d/%d: %s", job, self._jobs, name)


class Line(Progress):
    """One line, written over again: jobs done, what runs, the share of its slowest fit or of all, and the time left.

    The time left is what the jobs so far took, of those still to come.
    """

    watching = True

    def __init__(self, stream: TextIO):
        self._stream, self._lock, self._last = stream, threading.Lock(), 0.0

    def begin(self, jobs, done):
        self._jobs, self._skipped, self._began = jobs, done, time.monotonic()
        self._done, self._name, self._shares, self._rows = -1, "", dict[tuple[str, int], float](), 0
        # Jobs whose fits are done, or are being done now, before they begin; and how many fits are being done.
        self._ready, self._fits, self._is_ready = set[str](), 0, False
        # What is logged meanwhile begins a line of its own.
        for each in _told_by():
            each.addFilter(self._make_room)

    def ahead(self, names, fits):
        with self._lock:
            self._ready, self._fits, self._name = {*names}, fits, f"{fits} fits for {len(names)} jobs"
            self._shares, self._rows = {}, 0
        self._write(force=True)

    def start(self, job, name):
        with self._lock:
            self._done, self._name, self._shares, self._rows = self._done + 1, name, {}, 0
            self._is_ready, self._fits = name in self._ready, 0
            self._ready.discard(name)
        self._write(force=True)

    def fit(self, learner, seed, share):
        with self._lock:
            self._shares[learner, seed] = share
        self._write()

    def scored(self):
        with self._lock:
            self._rows += 1
        self._write()

    def end(self):
        for each in _told_by():
            each.removeFilter(self._make_room)
        self._show("")

    def _make_room(self, record: object) -> bool:
        """A filter of log records, which lets each pass once the line is gone; the next event writes it again."""
        self._last = 0.0
        self._show("")
        return True

    def _show(self, line: str) -> None:
        # A terminal that is gone is no fault of the run.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()

    def _write(self, *, force: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            if not force and now - self._last < 0.2:
                return
            self._last = now
            todo = self._jobs - self._skipped
            if self._fits:
                share = min(1.0, sum(self._shares.values()) / self._fits)
                done = self._done + 1 + 0.8 * share * len(self._ready)
            else:
                share = 1.0 if self._is_ready else min(self._shares.values(), default=0.0)
                done = self._done + 0.8 * (share + len(self._ready))
            what = f"scoring, {self._rows} rows" if self._rows else f"fit {share:.0%}" if self._shares else "..."
            left = f", {_clock((now - self._began) * (todo - done) / done)} left" if done > 0.2 else ""
            ended = self._skipped + self._done + (self._fits > 0)
            line = f"{ended}/{self._jobs} jobs, {what}{left}: {self._name}"
        # A line that wrapped could not be written over.
        width = min(110, shutil.get_terminal_size((111, 24)).columns - 1)
        self._show(line[:width])


def _told_by():
    """Where records come by: absl's logger, where no handler is set yet, and its handler, for those of other libraries."""
    return logging.get_absl_logger(), logging.get_absl_handler()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def here() -> Progress:
    """The kind of progress that suits where the process runs."""
    in_notebook = "ipykernel" in sys.modules
    return Line(sys.stderr) if sys.stderr.isatty() or in_notebook else Log()


__all__ = ["Line", "Log", "Progress", "here"]
