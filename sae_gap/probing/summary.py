"""Summaries of rows of probes, a line for each of the codes and each of their probes."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy import array
from scipy.special import stdtrit

from sae_gap import catalogue
from sae_gap.metrics import SCORES
from sae_gap.storage import Row


def overall(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Means over pairs, and paired differences from the baseline's own codes by the same probe.

    A pair counts once, by its mean over splits. Half a 95 % interval is `t s / √n` with s the
    deviation over n pairs and t of Student's law, and None if there is one pair. It treats pairs as
    independent, so that it is somewhat narrow where they share concepts.

    Args:
      rows: with the metric `probes`.
      baseline: the SAE with whose own codes the others are compared.

    Returns:
      A line for each dictionary, codes and probe, in the order of the rows: the mean of each of
      `SCORES` and half its interval, `<score>_half`; the differences from the baseline,
      `more_auc_ood`, `more_drop` and `more_accuracy_drop`, likewise; and the metrics that every
      study has.
    """
    named = {(row["dictionary"], row["codes"]): row for row in rows}
    own = named.get((baseline, "own"), {})
    columns = ("dictionary", "family", "codes", *catalogue.default_columns())
    lines = []
    for row in rows:
        for probe in row["probes"]:
            line = {name: row[name] for name in columns if name in row}
            line["probe"] = probe
            line["pairs"] = len(row["pairs"])
            line["splits"] = row["splits"]
            for score in SCORES:
                values = array(row[f"{score} {probe}"], float)
                line[score], line[f"{score}_half"] = _interval(values)
                if score in ("auc_ood", "drop", "accuracy_drop"):
                    base = array(own.get(f"{score} {probe}", np.nan), float)
                    line[f"more_{score}"], line[f"more_{score}_half"] = _interval(
                        values - base
                    )
            lines.append(line)
    return lines


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """The mean and half its 95 % interval by Student's law; None for what is not known."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return float(known[0]) if len(known) else None, None
    error = known.std(ddof=1) / sqrt(len(known))
    return float(known.mean()), float(stdtrit(len(known) - 1, 0.975) * error)
