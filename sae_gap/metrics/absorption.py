"""Recall that parents of a hierarchy lose where a child's latent absorbs their direction."""

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core import AnyCodes, Column, dense_chunks
from sae_gap.metrics import Inferred, Metric

# Judge a parent only if it fired at least this often with a child on, and as often with none.
_FEWEST = 10


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
    child = np.flatnonzero(parent >= 0)
    parents = np.unique(parent[child])
    parents = parents[partner[parents] >= 0]
    # Column p marks the children of parent p.
    shape = (len(parent), len(parent))
    family = scipy.sparse.csr_array(
        (np.ones(len(child), np.float32), (child, parent[child])), shape
    )[:, parents]
    # Counts for each parent, with a child on and with none: how often it is on, and how often its
    # latent then fires.
    on, seen = np.zeros((2, 2, len(parents)), np.int64)
    magnitude = np.broadcast_to(least, np.shape(codes)[1])[partner[parents]]
    for _, part, truth in dense_chunks(codes, true_codes):
        present = truth > 0
        with_child = (present.astype(np.float32) @ family) > 0
        where = present[:, parents] & np.stack([with_child, ~with_child])
        on += where.sum(axis=1)
        seen += (where & (np.abs(part[:, partner[parents]]) > magnitude)).sum(axis=1)
    judged = (on >= _FEWEST).all(axis=0)
    if not judged.any():
        return None
    beside, alone = seen[:, judged] / on[:, judged]
    return float((alone - beside).mean())


def measure(inferred: Inferred) -> dict[str, float]:
    """`absorption` above the cuts, for each scored split with known codes of a world with a
    hierarchy.
    """
    tree, match = inferred.task.tree, inferred.match
    if tree is None or match is None:
        return {}

    def score(_, truth, codes):
        lost = absorption(tree.parent, match.learned, truth, codes, inferred.cuts)
        return {} if lost is None else {"absorption": lost}

    return inferred.with_truth(score)


METRIC = Metric(
    "absorption",
    measure,
    {"absorption": Column("recall of parents lost to their children", 0.0)},
    everywhere=False,
)
