"""How well atoms are recovered, by the level and the frequency of the true feature, and how many
detect the same feature.
"""

import numpy as np
from jaxtyping import Int

from sae_gap.core import AnyCodes, Column, dense_chunks, matching
from sae_gap.metrics import Inferred, Metric

_LEVELS = ("roots", "children", "grandchildren", "great_grandchildren")
_QUARTILES = ("frequent", "common", "uncommon", "rare")


def atom_scores(
    match: matching.Match,
    num_learned: int,
    nearest: Int[np.ndarray, " learned"],
    groups: dict[str, Int[np.ndarray, " some"]],
) -> dict[str, float]:
    """How well the atoms are recovered: `atom_mcc`, mean |cos| over the pairs of the best matching,
    and `uniqueness`.

    There are as many pairs as the narrower dictionary has atoms, so that a dictionary too narrow
    for all features can still score 1.

    Args:
      match: of the learned with the true dictionary.
      num_learned: width of the learned one.
      nearest: the feature of each latent; uniqueness is the number of different features over the
        number of latents.
      groups: indices of features by name; each group has its own mean, over its features that are
        in a pair.

    Returns:
      `atom_mcc`, `uniqueness` and `atom_mcc_<group>` for each group with a feature in a pair.
    """
    cosine = np.abs(match.cosine)
    scores = {
        "atom_mcc": float(cosine.sum() / min(num_learned, len(cosine))),
        "uniqueness": len(np.unique(nearest)) / len(nearest),
    }
    for name, features in groups.items():
        paired = features[match.learned[features] >= 0]
        if len(paired):
            scores[f"atom_mcc_{name}"] = float(cosine[paired].mean())
    return scores


def groups_of(
    true_codes: AnyCodes,
    level: Int[np.ndarray, " true"] | None = None,
) -> dict[str, Int[np.ndarray, " some"]]:
    """Features by level of their tree and by quartile of the frequency at which they fire.

    Args:
      true_codes: (n, num_true), from which the frequencies are counted.
      level: level of each feature, -1 outside trees; None if there are no trees.

    Returns:
      Indices by name: "roots", "children" and so on, "free", and "frequent", "common", "uncommon",
      "rare".
    """
    groups = {}
    if level is not None:
        for depth in range(int(level.max()) + 1):
            groups[_LEVELS[depth] if depth < len(_LEVELS) else f"level_{depth}"] = np.flatnonzero(
                level == depth
            )
        groups["free"] = np.flatnonzero(level < 0)
    fired = sum((part > 0).sum(axis=0) for _, part in dense_chunks(true_codes))
    order = np.argsort(-fired, kind="stable")
    return groups | dict(zip(_QUARTILES, np.array_split(order, len(_QUARTILES)), strict=True))


def measure(inferred: Inferred) -> dict[str, float]:
    """`atom_scores`, if the truth is known and a dictionary was learned."""
    true_codes, tree = inferred.split("id").codes, inferred.task.tree
    if inferred.match is None or true_codes is None:
        return {}
    groups = groups_of(true_codes, None if tree is None else tree.level)
    width = inferred.model.decoder.shape[1]
    return atom_scores(inferred.match, width, inferred.nearest, groups)


METRIC = Metric(
    "atoms",
    measure,
    {
        "atom_mcc": Column("matched cosine of the pairs", 1.0, "MCC"),
        "uniqueness": Column("share of different features detected", 1.0, "unique"),
        **{
            f"atom_mcc_{group}": Column(
                f"matched cosine, {group.replace('_', '-')}",
                1.0,
                group.replace("_grandchildren", "-g."),
            )
            for group in (*_LEVELS, "free", *_QUARTILES)
        },
    },
    everywhere=False,
)
