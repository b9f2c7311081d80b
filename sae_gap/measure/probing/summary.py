"""What probes lose out of distribution, over pairs of concepts, and how codes and dictionaries differ in it."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.special

from sae_gap.storage.results import Row

# What tells the lines apart.
CELL = ("dictionary", "role", "codes", "probe")
SCORES = ("auc_id", "all_auc_ood", "auc_ood", "drop", "accuracy_drop")


def overall(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Means over pairs, and paired differences from the baseline's own codes by the same kind of probe.

    A pair counts once, by its mean over seeds. Half an interval of 95 % is `t s / √n` with s the deviation over n pairs and t
    of Student's law: it tells how far other pairs of concepts may differ, and is None where there is one pair. It takes pairs
    for independent, so that where they share concepts it is somewhat narrow.

    Args:
      rows: of `score_pair`, with the columns `pair` and `seed` and those of `CELL`.
      baseline: the SAE whose own codes the others are held against.

    Returns:
      A line for each dictionary, codes and probe, in the order of the rows: the mean of each score and `<score>_half`, half its
      interval; and `more_auc_ood`, `more_drop` and `more_accuracy_drop`, the differences from the baseline, with theirs.
    """
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in CELL), {}).setdefault(row["pair"], []).append(row)
    means = {
        group: {score: dict(_by_pair(pairs, score)) for score in SCORES if next(_by_pair(pairs, score), None)}
        for group, pairs in groups.items()
    }
    lines = []
    for group, scores in means.items():
        line: Row = dict(zip(CELL, group, strict=True)) | {"pairs": len(groups[group])}
        for score in SCORES:
            line[score], line[f"{score}_half"] = interval(list(scores.get(score, {}).values()))
        other = means.get((baseline, "sae", "own", group[-1]), {})
        for score in ("auc_ood", "drop", "accuracy_drop"):
            differences = [value - other[score][pair] for pair, value in scores.get(score, {}).items() if score in other]
            line[f"more_{score}"], line[f"more_{score}_half"] = interval(differences)
        lines.append(line)
    return lines


def _by_pair(pairs: Mapping[str, Sequence[Row]], score: str) -> Iterator[tuple[str, float]]:
    """The mean over seeds of each pair that has the score."""
    for pair, rows in pairs.items():
        values = [row[score] for row in rows if row.get(score) is not None]
        if values:
            yield pair, float(np.mean(values))


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean, and half of its interval of 95 % by Student's law; None for a single value, and both for none."""
    count = len(values)
    if not count:
        return None, None
    half = scipy.special.stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(count) if count > 1 else None
    return float(np.mean(values)), None if half is None else float(half)
