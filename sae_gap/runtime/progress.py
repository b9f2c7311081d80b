"""A line of progress, by tqdm: on a terminal and in a notebook, and nowhere else."""

import sys

from tqdm import tqdm

from sae_gap.runtime import distributed


def bar(total: float, what: str = "", *, unit: str = "it", shown: bool = True) -> tqdm:
    """A bar that counts up to `total`, in fractions too.

    Args:
      total: of what is to be done.
      what: a word before the bar.
      unit: of what is counted.
      shown: whether to show it where somebody looks.
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
