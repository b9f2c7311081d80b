"""Probes of a concept, and what they lose where it meets another concept anew.

A probe is a logistic regression on all features, or on the few latents that tell the classes apart.
Features are centred and scaled by their deviations in training. The penalty is that of
scikit-learn's `C`, the same for all features of one kind: validation has no rows of the withheld
cell to choose it by.

References:
  Kantamneni et al. (2025), "Are sparse autoencoders useful? A case study in sparse probing" (the
  ranking of the latents).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.special
from jaxtyping import Bool, Float, Int

from sae_gap.measure.probing.concepts import Split
from sae_gap.metrics.classification import LogisticProbe, fit_logistic, roc_auc
from sae_gap.storage.results import Row

# What is scored out of distribution and in it: the cells with A and without.
SIDES = {"ood": ("11", "01"), "id": ("10", "00")}
DENSE_C, SPARSE_C = 0.01, 1.0
# The columns that tell lines of `overall` apart, and the scores that these have.
CELL = ("dictionary", "role", "codes", "probe")
SCORES = ("auc_id", "all_auc_ood", "auc_ood", "drop", "accuracy_drop")


class Probe(NamedTuple):
    """A fitted probe.

    Attributes:
      latents: the columns that it reads.
      centre: of each of these in training.
      scale: by which each is multiplied, zero for one that is constant.
      logistic: on the columns so scaled.
    """

    latents: Int[np.ndarray, " some"] | slice
    centre: Float[np.ndarray, " some"]
    scale: Float[np.ndarray, " some"]
    logistic: LogisticProbe

    def decide(self, features: Any) -> Float[np.ndarray, " n"]:
        """The log-odds of the concept, of dense or sparse features, (n, columns)."""
        scaled = (_columns(features, self.latents) - self.centre) * self.scale
        return scaled @ self.logistic.weights + self.logistic.intercept


def fit_dense(features: Any, labels: Bool[np.ndarray, " n"], c: float = DENSE_C) -> Probe:
    """Fits a probe on all features, (n, columns); `c` is scikit-learn's C."""
    return _fit(features, slice(None), labels, c)


def fit_sparse(codes: Any, labels: Bool[np.ndarray, " n"], k: int, c: float = SPARSE_C) -> Probe:
    """Fits a probe on the k latents of the largest difference of class means.

    Of latent j that is `|E[z_j | A] - E[z_j | not A]|` over the mean of `|z_j|` where it is not 0.

    Args:
      codes: (n, num_latents), a sparse or a dense array.
      labels: (n,), whether each has the concept.
      k: latents to read.
      c: scikit-learn's C.

    Returns:
      The probe; its `latents` begin with the first in rank.
    """
    codes = scipy.sparse.csr_array(codes)
    size, used = abs(codes).sum(axis=0), (codes != 0).sum(axis=0)
    means = [codes[side].sum(axis=0) / max(1, side.sum()) for side in (labels, ~labels)]
    ranks = np.abs(means[0] - means[1]) * used / np.where(size > 0, size, 1)
    return _fit(codes, np.argsort(-ranks, kind="stable")[:k], labels, c)


def _fit(
    features: Any,
    latents: Int[np.ndarray, " some"] | slice,
    labels: Bool[np.ndarray, " n"],
    c: float,
) -> Probe:
    columns = _columns(features, latents)
    # Sums in float32 over many rows would round a constant into one that varies.
    centre, spread = (
        moment(axis=0, dtype=np.float64).astype(columns.dtype)
        for moment in (columns.mean, columns.std)
    )
    # A column that differs by rounding alone says nothing.
    varies = spread > 1e-6 * np.abs(columns).max(axis=0)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=varies)
    logistic = fit_logistic((columns - centre) * scale, labels, 1 / (c * len(labels)))
    return Probe(latents, centre, scale, logistic)


def _columns(features: Any, latents: Int[np.ndarray, " some"] | slice) -> np.ndarray:
    chosen = features[:, latents]
    return chosen.toarray() if scipy.sparse.issparse(chosen) else np.asarray(chosen)


def score_pair(
    features: Any,
    has: Bool[np.ndarray, " n"],
    split: Split,
    fit: Callable[[Any, Bool[np.ndarray, " n"]], Probe],
) -> dict[str, float]:
    """The probe trained without the cell and trained with it, both scored on the same rows.

    Where a split withholds nothing, as that of a `TextSet`, the one probe is scored on the rows
    under "11" and "01", if there are any, and on the others.

    Args:
      features: of all rows, (n, columns), a dense or a sparse array.
      has: which rows have the concept.
      split: of these rows.
      fit: makes a probe from features and labels.

    Returns:
      `auc_ood` and `accuracy_ood` of the probe that never saw the cell, on rows with the other
      concept; `auc_id` and `accuracy_id` on rows without it; the same of the reference,
      `all_auc_ood` and so on; and `drop`, `all_auc_ood - auc_ood`, and `accuracy_drop`. Where
      nothing is withheld the drop is `auc_id - auc_ood`.
    """
    scores: dict[str, float] = {}
    withheld = "withheld" in split.train
    for kind, prefix in (("withheld", ""), ("all", "all_")) if withheld else (("all", ""),):
        rows = split.train[kind]
        probe = fit(features[rows], has[rows])
        for side, named in SIDES.items():
            tested = np.concatenate([split.test[cell] for cell in named])
            if len(tested):
                decided = probe.decide(features[tested])
                scores[f"{prefix}auc_{side}"] = float(roc_auc(decided[:, None], has[tested])[0])
                scores[f"{prefix}accuracy_{side}"] = float(np.mean((decided > 0) == has[tested]))
    if "auc_ood" in scores:
        for name, score in {"drop": "auc", "accuracy_drop": "accuracy"}.items():
            reference = f"all_{score}_ood" if withheld else f"{score}_id"
            scores[name] = scores[reference] - scores[f"{score}_ood"]
    return scores


def overall(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Means over pairs, and paired differences from the baseline's own codes by the same probe.

    A pair counts once, by its mean over seeds. Half an interval of 95 % is `t s / √n` with s the
    deviation over n pairs and t of Student's law, and None where there is one pair. It takes pairs
    for independent, so that where they share concepts it is somewhat narrow.

    Args:
      rows: of `score_pair`, with the columns `pair` and `seed` and those of `CELL`.
      baseline: the SAE whose own codes the others are compared with.

    Returns:
      A line for each dictionary, codes and probe, in the order of the rows: the mean of each of
      `SCORES` and `<score>_half`, half its interval; and `more_auc_ood`, `more_drop` and
      `more_accuracy_drop`, the differences from the baseline, with theirs.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in CELL), []).append(row)
    lines = []
    for group, members in groups.items():
        line: Row = dict(zip(CELL, group, strict=True))
        line["pairs"] = len({row["pair"] for row in rows})
        others = groups.get((baseline, "sae", "own", group[-1]), [])
        for score in SCORES:
            means = _by_pair(members, score)
            line[score], line[f"{score}_half"] = interval([*means.values()])
            if score in ("auc_ood", "drop", "accuracy_drop"):
                base = _by_pair(others, score)
                more = [mean - base[pair] for pair, mean in means.items() if pair in base]
                line[f"more_{score}"], line[f"more_{score}_half"] = interval(more)
        lines.append(line)
    return lines


def _by_pair(rows: Sequence[Row], score: str) -> dict[str, float]:
    """The mean over seeds of each pair that has the score."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get(score) is not None:
            values.setdefault(row["pair"], []).append(row[score])
    return {pair: float(np.mean(scores)) for pair, scores in values.items()}


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and half its interval of 95 % by Student's law; None for what is not known."""
    count = len(values)
    if count < 2:
        return (float(values[0]) if values else None), None
    half = scipy.special.stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(count)
    return float(np.mean(values)), float(half)
