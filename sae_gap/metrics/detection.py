"""Latents as detectors of features, as SynthSAEBench scores them, and the recall that parents of a
hierarchy lose where a child's latent absorbs their direction.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core import AnyCodes, Column, ratio
from sae_gap.metrics import Inferred, Metric, fires

# Judge a parent only if it fired at least this often with a child on, and as often with none.
_FEWEST = 10


class Firing(NamedTuple):
    """How often each latent fired, its feature was on, and both; and the number of samples."""

    fired: Int[np.ndarray, " latent"]
    true: Int[np.ndarray, " latent"]
    both: Int[np.ndarray, " latent"]
    samples: int


def count(
    nearest: Int[np.ndarray, " latent"],
    true_codes: AnyCodes,
    codes: AnyCodes,
    least: Float[ArrayLike, " latent"] | float = 0.0,
) -> Firing:
    """Counts firings: latent j fires where `|z_j| > least_j`, and its feature is on where its true
    code is above zero.

    Args:
      nearest: the feature of each latent.
      true_codes: (n, num_true).
      codes: (n, num_latents), of the same samples.
      least: the magnitudes up to which a latent counts as off.
    """
    on = fires(codes, least)
    true = (scipy.sparse.csr_array(true_codes) > 0)[:, nearest]
    counts = (part.sum(axis=0) for part in (on, true, on.multiply(true)))
    return Firing(*counts, on.shape[0])  # type: ignore[call-arg]


def detection(firing: Firing) -> dict[str, float]:
    """Means over all latents of precision, recall, F1 and accuracy as detectors, each 0 where
    undefined; L0 and dead latents.

    `precision = both / fired`, `recall = both / true`,
    `F1 = 2 precision recall / (precision + recall)`.

    Args:
      firing: from `count`.

    Returns:
      `precision`, `recall`, `f1` and `detector_accuracy` in [0, 1], `fired`, the mean number of
      latents that fire in a sample, and `dead`, how many never do.

    References:
      Chanin & Garriga-Alonso (2026), "SynthSAEBench", arXiv:2602.14687; SAELens,
      `eval_sae_on_synthetic_data`.
    """
    precision = ratio(firing.both, firing.fired)
    recall = ratio(firing.both, firing.true)
    wrong = firing.fired + firing.true - 2 * firing.both
    return {
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(ratio(2 * precision * recall, precision + recall).mean()),
        "detector_accuracy": float(1 - wrong.mean() / firing.samples),
        "fired": float(firing.fired.sum() / firing.samples),
        "dead": int(np.sum(firing.fired == 0)),
    }


def absorption(
    parent: Int[np.ndarray, " true"],
    partner: Int[np.ndarray, " true"],
    true_codes: AnyCodes,
    codes: AnyCodes,
    least: Float[ArrayLike, " latent"] | float = 0.0,
) -> float | None:
    """How much recall a parent's latent loses where a child is on: recall with no child on, less
    recall with one.

    The recall of a parent is the share of samples with the parent on in which its partner among the
    latents fires. If a child's latent has absorbed its parent's direction, the parent's own latent
    is needless wherever the child is on.

    Args:
      parent: parent of each feature, -1 for none.
      partner: the latent matched with each feature, -1 for none.
      true_codes: (n, num_true).
      codes: (n, num_latents).
      least: magnitudes up to which a code counts as off.

    Returns:
      The mean over parents that have a partner and at least 10 samples of either kind; None if
      there is none. 0 is best; 1 means that parents are never detected beside their children and
      always without.
    """
    truth = scipy.sparse.csr_array(true_codes) > 0
    child = np.flatnonzero(parent >= 0)
    # Column p marks the children of parent p.
    family = scipy.sparse.csr_array(
        (child >= 0, (child, parent[child])), 2 * parent.shape
    )
    parents = np.unique(parent[child])
    parents = parents[partner[parents] >= 0]
    every = truth[:, parents]
    seen = fires(codes, least)[:, partner[parents]]
    beside = every.multiply(truth.astype(np.float32) @ family[:, parents] > 0)
    # For each parent, with a child on and in all: how often it is on, and its latent then fires.
    on, hit = (
        np.stack([part.sum(axis=0) for part in pair])
        for pair in ((beside, every), (beside.multiply(seen), every.multiply(seen)))
    )
    on[1] = on[1] - on[0]
    hit[1] = hit[1] - hit[0]
    judged = (on >= _FEWEST).all(axis=0)
    if not judged.any():
        return None
    with_child, alone = hit[:, judged] / on[:, judged]
    return float((alone - with_child).mean())


def measure(inferred: Inferred) -> dict[str, float]:
    """`detection` of every scored split, if the truth is known and a dictionary was learned.

    A latent fires where its code is not 0, as SAELens counts; for `cut_f1` and the like, where its
    code is above the cut from its own codes of the ID split.
    """

    def score(_, truth, codes):
        nonzero, above = (
            detection(count(inferred.nearest, truth, codes, least))
            for least in (0, inferred.cuts)
        )
        return nonzero | {f"cut_{metric}": value for metric, value in above.items()}

    return {} if inferred.match is None else inferred.with_truth(score)


_SCORES = {
    "precision": Column("precision of detection", 1.0, "P"),
    "recall": Column("recall of detection", 1.0, "R"),
    "f1": Column("F1 of detection", 1.0, "F1"),
}
METRIC = Metric(
    "detection",
    measure,
    _SCORES
    | {
        f"cut_{name}": Column(
            f"{column.label} above the cuts", 1.0, f"cut {column.heading}"
        )
        for name, column in _SCORES.items()
    }
    | {
        "detector_accuracy": Column("accuracy of detection", 1.0, ""),
        "fired": Column("latents that fire in a sample", heading="L0"),
        "dead": Column("latents that never fire"),
    },
    everywhere=False,
)


def _absorbed(inferred):
    """`absorption` above the cuts, for each scored split with known codes of a world with a
    hierarchy.
    """
    tree = inferred.task.tree
    match = inferred.match
    if tree is None or match is None:
        return {}

    def score(_, truth, codes):
        lost = absorption(tree.parent, match.learned, truth, codes, inferred.cuts)
        return {} if lost is None else {"absorption": lost}

    return inferred.with_truth(score)


ABSORPTION = Metric(
    "absorption",
    _absorbed,
    {"absorption": Column("recall of parents lost to their children", 0.0)},
    everywhere=False,
)
