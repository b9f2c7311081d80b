"""Probes of a concept, and how much they lose where it meets another concept anew.

A probe is a logistic regression on all features, or on the few latents that separate the classes.
Features are centred and scaled by their deviations in training. The penalty is that of
scikit-learn's `C`, the same for all features of one kind: validation has no rows of the withheld
cell by which to choose it.

References:
  Kantamneni et al. (2025), "Are sparse autoencoders useful? A case study in sparse probing" (the
  ranking of the latents).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from sae_gap.core import active_columns, columns_of
from sae_gap.metrics import Inferred, LogisticProbe, Metric, fit_logistic, roc_auc

# Cells scored out of distribution and in distribution: with A and without.
SIDES = {"ood": ("11", "01"), "id": ("10", "00")}
# scikit-learn's C for probes of all features and of few latents.
DENSE_C = 0.01
SPARSE_C = 1.0
# How many latents a sparse probe reads.
KS = (1, 2, 5, 20)
# Scores of a pair in the rows.
SCORES = ("auc_id", "all_auc_ood", "auc_ood", "drop", "accuracy_drop")


class Probe(NamedTuple):
    """A fitted probe.

    Attributes:
      latents: the columns that it reads.
      centre: their means in training.
      scale: their factors, zero for a constant column.
      logistic: the regression on the scaled columns.
    """

    latents: Int[np.ndarray, " some"] | slice
    centre: Float[np.ndarray, " some"]
    scale: Float[np.ndarray, " some"]
    logistic: LogisticProbe

    def decide(self, features: Any) -> Float[np.ndarray, " n"]:
        """The log-odds of the concept, of dense or sparse features, (n, columns)."""
        scaled = (columns_of(features, self.latents) - self.centre) * self.scale
        return self.logistic.decide(scaled)


def fit_dense(features: Any, labels: Bool[np.ndarray, " n"]) -> Probe:
    """Fits a probe on all features, (n, columns)."""
    return _fit(features, slice(None), labels, DENSE_C)


def fit_sparse(codes: Any, labels: Bool[np.ndarray, " n"], k: int) -> Probe:
    """Fits a probe on the k latents with the largest difference of class means.

    The difference is `|E[z_j | A] - E[z_j | not A]|` over the mean of `|z_j|` where that is not 0.

    Args:
      codes: (n, num_latents), a sparse or a dense array.
      labels: (n,), whether each has the concept.
      k: latents to read.

    Returns:
      The probe; its `latents` are in order of rank.
    """
    codes = csr_array(codes)
    size = abs(codes).sum(axis=0, dtype=float)
    used = (codes != 0).sum(axis=0)
    mean_with = _mean(codes[labels])
    mean_without = _mean(codes[~labels])
    difference = abs(mean_with - mean_without)
    # Latents that are on in only one class tie, however large they are.
    ranks = np.round(difference * used / np.where(size > 0, size, 1), 9)
    return _fit(codes, np.argsort(-ranks, kind="stable")[:k], labels, SPARSE_C)


def _fit(
    features: Any, latents: Any, labels: Bool[np.ndarray, " n"], c: float
) -> Probe:
    columns = columns_of(features, latents)
    # Summed in float32 over many rows, a constant would seem to vary.
    centre = columns.mean(axis=0, dtype=float).astype(columns.dtype)
    spread = columns.std(axis=0, dtype=float).astype(columns.dtype)
    # A column that varies by rounding alone carries no information.
    varies = spread > 1e-6 * abs(columns).max(axis=0)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=varies)
    logistic = fit_logistic((columns - centre) * scale, labels, 1 / (c * len(labels)))
    return Probe(latents, centre, scale, logistic)


def _mean(codes: csr_array) -> Float[np.ndarray, " latent"]:
    return codes.sum(axis=0, dtype=float) / max(1, codes.shape[0])


def score_pair(
    features: Any,
    has: Bool[np.ndarray, " n"],
    split: Any,
    fit: Callable[[Any, np.ndarray], Probe],
) -> dict[str, float]:
    """Scores the probe trained without the cell and the one trained with it on the same rows.

    Args:
      features: of all rows, (n, columns), a dense or a sparse array.
      has: which rows have the concept.
      split: of these rows, with `train` and `test`; see `sae_gap.probing`.
      fit: makes a probe from features and labels.

    Returns:
      `auc_ood` and `accuracy_ood` of the probe that never saw the cell, on rows with the other
      concept; `auc_id` and `accuracy_id` on rows without it; the same scores of the reference,
      `all_auc_ood` and so on; and `drop`, `all_auc_ood - auc_ood`, and `accuracy_drop`.
    """
    scores: Any = {}
    for kind, prefix in (("withheld", ""), ("all", "all_")):
        rows = split.train[kind]
        probe = fit(features[rows], has[rows])
        for side, named in SIDES.items():
            tested = np.concatenate([split.test[cell] for cell in named])
            decided = probe.decide(features[tested])
            (area,) = roc_auc(decided[:, None], has[tested])
            accuracy = np.mean((decided > 0) == has[tested])
            scores[f"{prefix}auc_{side}"] = float(area)
            scores[f"{prefix}accuracy_{side}"] = float(accuracy)
    for name, score in {"drop": "auc", "accuracy_drop": "accuracy"}.items():
        scores[name] = scores[f"all_{score}_ood"] - scores[f"{score}_ood"]
    return scores


def measure(inferred: Inferred) -> dict[str, Any]:
    """Scores of the task's concepts: probes of reconstructions, of all latents and of few; or of
    the activations and of few of their coordinates, if no dictionary was learned.

    Returns:
      `probes`, their names, "dense", "k=all" but of activations, and "k=1", "k=2", "k=5" and
      "k=20"; `pairs`, the names of the concepts; `splits`, how many each has; and for each of
      `SCORES` and each probe, such as `drop k=5`, the mean over splits for each concept.
    """
    concepts = inferred.task.concepts
    codes = inferred.codes["id"]
    columns = inferred.activations
    kinds: Any = {"dense": (columns, fit_dense)}
    if inferred.model.dictionary is not None:
        # A latent that is never on separates no classes.
        columns = csr_array(active_columns(codes)[0])
        kinds = {
            "dense": (inferred.reconstruction, fit_dense),
            "k=all": (columns, fit_dense),
        }
    kinds |= {f"k={k}": (columns, partial(fit_sparse, k=k)) for k in KS}
    row: Any = {"probes": [*kinds], "pairs": [*concepts]}
    row |= {f"{score} {probe}": [] for probe in kinds for score in SCORES}
    for probe, (features, fit) in kinds.items():
        for has, splits in concepts.values():
            scored = [
                score_pair(features, has, split, fit) for split in splits.values()
            ]
            for score in SCORES:
                mean = np.mean([scores[score] for scores in scored])
                row[f"{score} {probe}"].append(float(mean))
    return row | {"splits": len(scored)}


METRIC = Metric(
    "probes",
    measure,
    version=2,
    everywhere=False,
    needs=lambda inferred: (
        None if inferred.task.concepts else "the rows have no concepts to probe"
    ),
)
