"""Progress: a bar by tqdm on a terminal and in a notebook, elsewhere a line a minute in the log;
and the minutes after which a process starts nothing more.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from math import inf
from threading import Event, Thread
from typing import Any

from absl import logging
from tqdm import tqdm

from sae_gap.runtime import distributed

# Seconds between two lines of the log.
EVERY = 60.0
_DRAWN = (
    "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:g} [{elapsed}<{remaining}{postfix}]"
)
_WRITTEN = (
    "{desc}: {n:.1f} of {total:.0f} {unit} in {elapsed}, {remaining} left{postfix}"
)
# A clock that only runs forward, and its second at which the minutes of this process are over.
seconds = time.monotonic
_ends = [inf]


@dataclass(eq=False)
class UnfinishedError(Exception):
    """The minutes of `limit` are over, and a study is not finished.

    Attributes:
      text: a sentence that says how much is left.
      rows: the rows of the study that are there.
      dictionaries: those that lack a row.
    """

    text: str
    rows: list[Any]
    dictionaries: set[str]


def limit(minutes: float) -> None:
    """Gives this process so many minutes from now, after which studies start no fit and no row."""
    _ends[0] = seconds() + 60 * minutes


def is_over() -> bool:
    """True once the minutes of `limit` are over."""
    return seconds() >= _ends[0]


class Line(tqdm):
    """A bar. If it has `begin`, it counts fits and rows, and takes the time left from the pace of
    each of the two kinds.

    The seconds between two reports count for the kind of the later one. A kind of which nothing is
    done takes as long as the mean.
    """

    kinds: Mapping[Any, str] = {}

    def begin(
        self, fits: Iterable[Any], rows: Iterable[Any] = (), done: int = 0
    ) -> None:
        """Sets the work.

        Args:
          fits: the names of fits. The first report of each says where it begins: a fit that resumes
            took none of these seconds before.
          rows: the names of rows.
          done: the number of further rows, which earlier runs did.
        """
        self.shares = dict.fromkeys(rows, 0.0)
        self.kinds = dict.fromkeys(self.shares, "row") | dict.fromkeys(fits, "fit")
        self.gained: Any = Counter()
        self.spent: Any = Counter()
        self.last = seconds()
        self.initial: float = done
        self.n: float = done
        self.total = done + len(self.kinds)

    def report(self, name: Any, share: float = 1.0) -> None:
        """Says which share of a fit or row is done; an unknown one does not count. Threads may
        report at once.
        """
        if name not in self.kinds:
            return
        kind = self.kinds[name]
        with self.get_lock():
            now = seconds()
            self.gained[kind] += share - self.shares.get(name, share)
            self.spent[kind] += now - self.last
            self.shares[name] = share
            self.last = now
            self.n = self.initial + sum(self.shares.values())
        self.update(0)

    @property
    def format_dict(self) -> Any:
        found = super().format_dict
        if not self.kinds:
            return found
        # tqdm writes a rate of zero as an unknown time.
        found["rate"] = 0
        done = self.gained.total()
        if done:
            left = self.last - seconds()
            for name, kind in self.kinds.items():
                gained = self.gained[kind]
                pace = (
                    self.spent[kind] / gained if gained else self.spent.total() / done
                )
                left += pace * (1 - self.shares.get(name, 0))
            found["rate"] = (self.total - self.n) / max(1.0, left)
        return found


@contextmanager
def line(
    total: float = 0, what: str = "", *, unit: str = "it", shown: bool = True
) -> Iterator[Line]:
    """A bar that counts up to a total, in fractions too, where somebody looks; elsewhere the log
    says each minute how much is done of how much, in which time, and how much time is left.

    Args:
      total: the full count; `Line.begin` sets that of a work.
      what: a word before the count.
      unit: unit of the count, in the plural.
      shown: whether to say anything.
    """
    hidden = not (shown and distributed.is_first())
    look: dict[str, Any] = {"bar_format": _DRAWN, "dynamic_ncols": True, "leave": False}
    logged = not (hidden or _somebody_looks())
    if logged:
        look = {"bar_format": _WRITTEN, "file": StringIO(), "mininterval": inf}
    # Draw after every report, and take the mean speed.
    look |= {"miniters": 0, "smoothing": 0, "disable": hidden}
    ended = Event()

    def tell() -> None:
        while not ended.wait(EVERY):
            logging.info("%s", drawn)

    with Line(total=total, desc=what, unit=unit, **look) as drawn:
        if logged:
            Thread(target=tell, daemon=True).start()
        try:
            yield drawn
        finally:
            ended.set()


def _somebody_looks() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
