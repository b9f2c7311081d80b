"""What parents of a hierarchy lose to their children, whose latents may take in the parent's direction."""

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core.codes import SparseCodes, dense_chunks
from sae_gap.core.registry import Column
from sae_gap.metrics.metric import Inferred, Metric

# A parent is judged by its recall where it has fired at least so often, with a child on and with none.
_FEWEST = 10


def absorption(
    parent: Int[np.ndarray, " true"],
    partner: Int[np.ndarray, " true"],
    true_codes: Float[ArrayLike, "n latent"] | SparseCodes,
    codes: Float[ArrayLike, "n latent"] | SparseCodes,
    least: Float[ArrayLike, " latent"] | float = 0.0,
) -> float | None:
    """What a parent's latent loses of its recall where a child is on: recall with no child on, less recall with one.

    The recall of a parent is the share of samples with the parent on in which its partner among the latents fires. A latent of
    a child that has taken in its parent's direction makes the parent's own latent needless wherever the child is on.

    Args:
      parent: of each feature, -1 for none.
      partner: the latent matched with each feature, -1 for none.
      true_codes: (n, num_true).
      codes: (n, num_latents).
      least: magnitudes not to count.

    Returns:
      The mean over parents that have a partner and at least 10 samples of either kind; None if there is none. 0 is best, and
      1 says that parents are never seen beside their children and always without.
    """
    number = len(parent)
    parents = np.unique(parent[parent >= 0])
    parents = parents[partner[parents] >= 0]
    # Which features are children of which parent.
    child = np.flatnonzero(parent >= 0)
    family = scipy.sparse.csr_array((np.ones(len(child), np.float32), (child, parent[child])), (number, number))[:, parents]
    counts = np.zeros((4, len(parents)), np.int64)
    magnitude = np.broadcast_to(least, np.shape(codes)[1])[partner[parents]]
    for _, part, truth in dense_chunks(codes, true_codes):
        present = truth > 0
        on, with_child = present[:, parents], (present.astype(np.float32) @ family) > 0
        seen = np.abs(part[:, partner[parents]]) > magnitude
        for kind, where in enumerate((on & with_child, on & ~with_child)):
            counts[2 * kind] += where.sum(axis=0)
            counts[2 * kind + 1] += (where & seen).sum(axis=0)
    judged = (counts[0] >= _FEWEST) & (counts[2] >= _FEWEST)
    if not judged.any():
        return None
    beside, alone = (counts[kind + 1][judged] / counts[kind][judged] for kind in (0, 2))
    return float((alone - beside).mean())


def measure(inferred: Inferred) -> dict[str, float]:
    """`absorption` above the cuts, of every scored split of a world with a hierarchy whose codes are known."""
    tree, match, found = inferred.task.tree, inferred.match, dict[str, float]()
    if tree is None or match is None:
        return found
    for name, truth, codes in inferred.with_truth:
        lost = absorption(tree.parent, match.learned, truth, codes, inferred.cuts)
        found |= {} if lost is None else {f"absorption_{name}": lost}
    return found


METRIC = Metric(
    "absorption",
    measure,
    {"absorption": Column("recall of parents lost to their children", 0.0)},
    everywhere=False,
)
