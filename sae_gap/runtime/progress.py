"""Progress: a bar by tqdm on a terminal and in a notebook, elsewhere a line a minute in the log."""

import contextlib
import io
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

from absl import logging
from tqdm import tqdm

from sae_gap.runtime import distributed

# Seconds between two lines of the log.
EVERY = 60.0
_DRAWN = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:g} [{elapsed}<{remaining}{postfix}]"
_WRITTEN = "{desc}: {n:.0f} of {total:.0f} {unit} in {elapsed}, {remaining} left{postfix}"


def bar(
    total: float, what: str = "", *, unit: str = "it", shown: bool = True, **options: Any
) -> tqdm:
    """A bar that counts up to `total`, in fractions too.

    Args:
      total: the full count.
      what: a word before the bar.
      unit: unit of the count.
      shown: whether to show it on a terminal or in a notebook.
      options: of tqdm, in the place of these.
    """
    hidden = not (shown and _somebody_looks() and distributed.is_first())
    look: dict[str, Any] = {"disable": hidden, "dynamic_ncols": True, "leave": False}
    look |= {"bar_format": _DRAWN} | options
    return tqdm(total=total, desc=what, unit=unit, **look)


@contextlib.contextmanager
def line(
    total: float, what: str = "", *, unit: str = "it", shown: bool = True, done: float = 0.0
) -> Iterator[tqdm]:
    """A bar where somebody looks; elsewhere the log says each minute how much is done of how much,
    in which time, and how much time is left.

    Args:
      total: the full count.
      what: a word before the count.
      unit: unit of the count, in the plural.
      shown: whether to say anything.
      done: the count that an earlier run did, which tells nothing of the time left.
    """
    logged = shown and not _somebody_looks() and distributed.is_first()
    written: dict[str, Any] = {"disable": False, "file": io.StringIO(), "bar_format": _WRITTEN}
    options = written | {"mininterval": math.inf} if logged else {}
    drawn, ended = bar(total, what, unit=unit, shown=shown, **options), threading.Event()

    def tell():
        while not ended.wait(EVERY):
            logging.info("%s", drawn)

    drawn.initial = drawn.n = done
    with drawn:
        if logged:
            threading.Thread(target=tell, daemon=True).start()
        try:
            yield drawn
        finally:
            ended.set()


def _somebody_looks():
    return sys.stderr.isatty() or "ipykernel" in sys.modules
