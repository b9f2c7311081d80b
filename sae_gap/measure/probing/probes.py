"""Probes of a concept: logistic regression on all features, or on the few latents that tell the classes apart.

Features are centred and scaled by their deviations in training. The penalty is that of scikit-learn's `C`: the same for all
features of one kind, since a choice by validation has no rows of the withheld cell to choose by.

References:
  Kantamneni et al. (2025), "Are sparse autoencoders useful? A case study in sparse probing" (the ranking of the latents).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from sae_gap.measure.probing.cells import Split
from sae_gap.metrics.classification import LogisticProbe, fit_logistic, roc_auc

# What is scored out of distribution and in it: the cells with A and without.
SIDES = {"ood": ("11", "01"), "id": ("10", "00")}
DENSE_C, SPARSE_C = 0.01, 1.0


class Probe(NamedTuple):
    """A fitted probe.

    Attributes:
      latents: the columns that it reads; None for all.
      centre: of each of these in training.
      scale: by which each is multiplied, zero for one that is constant.
      logistic: on the columns so scaled.
    """

    latents: Int[np.ndarray, " some"] | None
    centre: Float[np.ndarray, " some"]
    scale: Float[np.ndarray, " some"]
    logistic: LogisticProbe

    def decide(self, features: Any) -> Float[np.ndarray, " n"]:
        """The log-odds of the concept, positive where it is answered, of dense or sparse features, (n, columns)."""
        return (_columns(features, self.latents) - self.centre) * self.scale @ self.logistic.weights + self.logistic.intercept


def fit_dense(features: Any, labels: Bool[np.ndarray, " n"], c: float = DENSE_C) -> Probe:
    """Fits a probe on all features, (n, columns); `c` is scikit-learn's C."""
    return _fit(features, None, labels, c)


def fit_sparse(codes: Any, labels: Bool[np.ndarray, " n"], k: int, c: float = SPARSE_C) -> Probe:
    """Fits a probe on the k latents of the largest difference of class means.

    Of latent j that is `|E[z_j | A] - E[z_j | not A]|` over the mean of `|z_j|` where it is not zero.

    Args:
      codes: (n, num_latents), a sparse or a dense array.
      labels: (n,), whether each has the concept.
      k: latents to read.
      c: scikit-learn's C.

    Returns:
      The probe; its `latents` begin with the first in rank.
    """
    codes = scipy.sparse.csr_array(codes)
    size = abs(codes).sum(axis=0)
    used = (codes != 0).sum(axis=0)
    means = [codes[labels == side].sum(axis=0) / max(1, np.count_nonzero(labels == side)) for side in (True, False)]
    ranks = np.abs(means[0] - means[1]) * used / np.where(size > 0, size, 1)
    return _fit(codes, np.argsort(-ranks, kind="stable")[:k], labels, c)


def score_pair(
    features: Any, has: Bool[np.ndarray, " n"], split: Split, fit: Callable[[Any, Bool[np.ndarray, " n"]], Probe]
) -> dict[str, float]:
    """The probe trained without the cell and trained with it, both scored on the same rows.

    Where a split withholds nothing, as that of a `TextSet`, the one probe is scored on the rows under "11" and "01", if there
    are any, and on the others.

    Args:
      features: of all rows, (n, columns), a dense or a sparse array.
      has: which rows have the concept.
      split: of these rows.
      fit: makes a probe from features and labels.

    Returns:
      `auc_ood` and `accuracy_ood` of the probe that never saw the cell, on rows with the other concept; `auc_id` and
      `accuracy_id` on rows without it; the same of the reference, `all_auc_ood` and so on; and `drop`, `all_auc_ood - auc_ood`,
      and `accuracy_drop`. Where nothing is withheld the drop is `auc_id - auc_ood`.
    """
    found: dict[str, float] = {}
    withheld = "withheld" in split.train
    for kind, prefix in ({"withheld": "", "all": "all_"} if withheld else {"all": ""}).items():
        rows = split.train[kind]
        probe = fit(features[rows], has[rows])
        for side, (positive, negative) in SIDES.items():
            tested = np.concatenate([split.test[positive], split.test[negative]])
            if len(tested):
                decided = probe.decide(features[tested])
                found[f"{prefix}auc_{side}"] = float(roc_auc(decided[:, None], has[tested])[0])
                found[f"{prefix}accuracy_{side}"] = float(np.mean((decided > 0) == has[tested]))
    for name, score in {"drop": "auc", "accuracy_drop": "accuracy"}.items():
        if f"{score}_ood" in found:
            found[name] = found[f"all_{score}_ood" if withheld else f"{score}_id"] - found[f"{score}_ood"]
    return found


def _fit(features: Any, latents: Int[np.ndarray, " some"] | None, labels: Bool[np.ndarray, " n"], c: float) -> Probe:
    columns = _columns(features, latents)
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    return Probe(latents, centre, scale, fit_logistic((columns - centre) * scale, labels, 1 / (c * len(labels))))


def _columns(features: Any, latents: Int[np.ndarray, " some"] | None) -> Float[np.ndarray, "n some"]:
    chosen = features if latents is None else features[:, latents]
    return chosen.toarray() if scipy.sparse.issparse(chosen) else np.asarray(chosen)
