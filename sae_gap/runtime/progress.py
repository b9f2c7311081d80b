"""A progress bar by tqdm, shown only on a terminal and in a notebook."""

import sys

from tqdm import tqdm

from sae_gap.runtime import distributed


def bar(total: float, what: str = "", *, unit: str = "it", shown: bool = True) -> tqdm:
    """A bar that counts up to `total`, in fractions too.

    Args:
      total: the full count.
      what: a word before the bar.
      unit: unit of the count.
      shown: whether to show it on a terminal or in a notebook.
    """
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:g} [{elapsed}<{remaining}{postfix}]"
    somebody_looks = sys.stderr.isatty() or "ipykernel" in sys.modules
    hidden = not (shown and somebody_looks and distributed.is_first())
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=hidden,
        dynamic_ncols=True,
        bar_format=form,
        leave=False,
    )
