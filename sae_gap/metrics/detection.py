"""Latents as detectors of features, as SynthSAEBench scores them, and the recall that parents of a
hierarchy lose where a child's latent absorbs their direction.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from sae_gap.core import AnyCodes, Column, ratio
from sae_gap.metrics import Inferred, Metric, Overlap, fires

# Judge a parent only if it fired at least this often with a child on, and as often with none.
_FEWEST = 10


def count(
    nearest: Int[np.ndarray, " latent"],
    true_codes: AnyCodes,
    codes: AnyCodes,
    least: Float[ArrayLike, " latent"] | float = 0.0,
) -> Overlap:
    """Counts for each latent the samples in which it fires, its feature is on, and both: latent j
    fires where `|z_j| > least_j`, and its feature is on where its true code is above zero.

    Args:
      nearest: the feature of each latent.
      true_codes: (n, num_true).
      codes: (n, num_latents), of the same samples.
      least: the magnitudes up to which a latent counts as off.
    """
    is_on = csr_array(true_codes) > 0
    return Overlap.of(fires(codes, least), is_on[:, nearest], axis=0)


def detection(firing: Overlap, samples: int) -> dict[str, float]:
    """Means over all latents of precision, recall, F1 and accuracy as detectors, each 0 where
    undefined; L0 and dead latents.

    Args:
      firing: from `count`.
      samples: the number of samples.

    Returns:
      `precision`, `recall`, `f1` and `detector_accuracy` in [0, 1], `fired`, the mean number of
      latents that fire in a sample, and `dead`, how many never do.

    References:
      Chanin & Garriga-Alonso (2026), "SynthSAEBench", arXiv:2602.14687; SAELens,
      `eval_sae_on_synthetic_data`.
    """
    wrong = firing.either - firing.both
    return {
        "precision": float(firing.precision.mean()),
        "recall": float(firing.recall.mean()),
        "f1": float(firing.f1.mean()),
        "detector_accuracy": float(1 - wrong.mean() / samples),
        "fired": float(firing.size.sum() / samples),
        "dead": int(np.sum(firing.size == 0)),
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
    truth = csr_array(true_codes) > 0
    child = np.flatnonzero(parent >= 0)
    # Column p marks the children of parent p.
    family = csr_array((child >= 0, (child, parent[child])), 2 * parent.shape)
    parents = np.unique(parent[child])
    parents = parents[partner[parents] >= 0]
    parent_on = truth[:, parents]
    detected = fires(codes, least)[:, partner[parents]]
    child_on = truth.astype(np.float32) @ family[:, parents] > 0
    with_child = Overlap.of(detected, parent_on.multiply(child_on), axis=0)
    in_all = Overlap.of(detected, parent_on, axis=0)
    without_child = in_all.true - with_child.true
    judged = np.minimum(with_child.true, without_child) >= _FEWEST
    if not judged.any():
        return None
    recall_alone = ratio(in_all.both - with_child.both, without_child)
    return float((recall_alone - with_child.recall)[judged].mean())


def measure(inferred: Inferred) -> dict[str, float]:
    """`detection` of every scored split, if the truth is known and a dictionary was learned.

    A latent fires where its code is not 0, as SAELens counts; for `cut_f1` and the like, where its
    code is above the cut from its own codes of the ID split.
    """

    def score(name: str, truth: AnyCodes, codes: AnyCodes) -> dict[str, float]:
        samples = np.shape(codes)[0]
        scores = detection(count(inferred.nearest, truth, codes), samples)
        above = count(inferred.nearest, truth, codes, inferred.cuts)
        for metric, value in detection(above, samples).items():
            scores[f"cut_{metric}"] = value
        return scores

    return inferred.with_truth(score) if inferred.match else {}


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


def _absorbed(inferred: Inferred) -> dict[str, float]:
    """`absorption` above the cuts, for each scored split with known codes of a world with a
    hierarchy.
    """
    tree = inferred.task.tree
    match = inferred.match
    if not tree or not match:
        return {}

    def score(name: str, truth: AnyCodes, codes: AnyCodes) -> dict[str, float]:
        lost = absorption(tree.parent, match.learned, truth, codes, inferred.cuts)
        return {} if lost is None else {"absorption": lost}

    return inferred.with_truth(score)


ABSORPTION = Metric(
    "absorption",
    _absorbed,
    {"absorption": Column("recall of parents lost to their children", 0.0)},
    everywhere=False,
)
