"""Progress: a bar by tqdm on a terminal and in a notebook, elsewhere a line a minute in the log; and
the minutes after which a process starts nothing more.
"""

import collections
import contextlib
import io
import math
import sys
import threading
import time
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from absl import logging
from tqdm import tqdm

from sae_gap.runtime import distributed

# Seconds between two lines of the log.
EVERY = 60.0
_DRAWN = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:g} [{elapsed}<{remaining}{postfix}]"
_WRITTEN = "{desc}: {n:.1f} of {total:.0f} {unit} in {elapsed}, {remaining} left{postfix}"
# Parts of a work by name: the kind and the weight of each.
Parts = Mapping[Any, tuple[Hashable, float]]
# The second at which the minutes of this process are over.
_ends = [math.inf]


def seconds() -> float:
    """The seconds of a clock that only runs forward."""
    return time.monotonic()


def limit(minutes: float | None) -> None:
    """Gives this process so many minutes from now, after which studies start no fit and no row;
    None sets no limit.
    """
    _ends[0] = math.inf if minutes is None else seconds() + 60 * minutes


def is_over(*, together: bool = False) -> bool:
    """True once the minutes of `limit` are over; `together` asks the clock of the first process,
    for all of them.
    """
    over = seconds() >= _ends[0]
    return distributed.from_first(over) if together else over


class Pace:
    """How much of a work is done, and how long the rest takes.

    The seconds between two reports count for the kind of the later one. The rest of a kind takes as
    long for its weight as what was done of it; that of a kind of which nothing was done takes as
    long as the mean of all parts.

    Args:
      fits: parts that may resume: the first report of each says where it begins, which took none of
        these seconds.
      rows: parts that begin at zero.
      done: the number of parts that earlier runs did.
    """

    def __init__(self, fits: Parts, rows: Parts, done: int = 0):
        self._parts = {**fits, **rows}
        self._shares: Any = {**dict.fromkeys(fits), **dict.fromkeys(rows, 0.0)}
        self._seconds = collections.Counter[Any]()
        self._gained = collections.Counter[Any]()
        self._counted = 0.0
        self._before = done
        self._last = seconds()
        self._lock = threading.Lock()

    def report(self, name: Any, share: float = 1.0) -> None:
        """Says which share of a part is done. Threads may report at once."""
        if name not in self._parts:
            return
        kind, weight = self._parts[name]
        with self._lock:
            before = self._shares[name]
            gained = 0.0 if before is None else share - before
            self._shares[name] = share
            self._gained[kind] += gained * weight
            self._counted += gained
            now = seconds()
            self._seconds[kind] += now - self._last
            self._last = now

    @property
    def total(self) -> int:
        """The number of all parts."""
        return self._before + len(self._parts)

    @property
    def count(self) -> float:
        """How many parts are done, fractions and those of earlier runs included."""
        return self._before + sum(share or 0.0 for share in self._shares.values())

    @property
    def rest(self) -> set[Any]:
        """The names of the parts that are not done."""
        return {name for name, share in self._shares.items() if (share or 0.0) < 1}

    def left(self) -> float | None:
        """The seconds that the rest takes; None as long as nothing is done."""
        if self._counted <= 0:
            return None
        usual, needed = sum(self._seconds.values()) / self._counted, 0.0
        for name in self.rest:
            kind, weight = self._parts[name]
            gained = self._gained[kind]
            whole = weight * self._seconds[kind] / gained if gained > 0 else usual
            needed += whole * (1 - (self._shares[name] or 0.0))
        return max(0.0, needed - (seconds() - self._last))


class Line(tqdm):
    """A bar, with a pace or without."""

    pace: Pace | None = None

    def report(self, name: Any, share: float = 1.0) -> None:
        """Reports to the pace, and shows what it counts."""
        if self.pace is not None:
            self.pace.report(name, share)
            self.n = self.pace.count
            self.update(0)

    @property
    def format_dict(self):
        found = super().format_dict
        if self.pace is not None:
            left = self.pace.left()
            # tqdm writes a rate of zero as an unknown time.
            found["rate"] = 0.0 if left is None else (self.total - self.n) / max(left, 1e-9)
        return found


@contextlib.contextmanager
def line(
    total: float | Pace, what: str = "", *, unit: str = "it", shown: bool = True
) -> Iterator[Line]:
    """A bar that counts up to a total, in fractions too, where somebody looks; elsewhere the log
    says each minute how much is done of how much, in which time, and how much time is left.

    Args:
      total: the full count, or the pace of the work.
      what: a word before the count.
      unit: unit of the count, in the plural.
      shown: whether to say anything.
    """
    shown, logged = shown and distributed.is_first(), not _somebody_looks()
    pace = total if isinstance(total, Pace) else None
    look: dict[str, Any] = {"bar_format": _DRAWN, "dynamic_ncols": True, "leave": False}
    # Draw after every report, and take the mean speed.
    look |= {"miniters": 0, "smoothing": 0}
    if logged:
        look |= {"bar_format": _WRITTEN, "file": io.StringIO(), "mininterval": math.inf}
    whole = total if pace is None else pace.total
    ended = threading.Event()

    def tell():
        while not ended.wait(EVERY):
            logging.info("%s", drawn)

    with Line(total=whole, desc=what, unit=unit, disable=not shown, **look) as drawn:
        drawn.pace = pace
        if pace is not None:
            drawn.initial = drawn.n = pace.count
        if shown and logged:
            threading.Thread(target=tell, daemon=True).start()
        try:
            yield drawn
        finally:
            ended.set()


def _somebody_looks():
    return sys.stderr.isatty() or "ipykernel" in sys.modules
