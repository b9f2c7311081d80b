"""Recovery of the dictionary: how close the learned atoms are to the true atoms of their pairs, by
the level and the frequency of the true feature too, and how many detect the same feature.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpy import asarray, flatnonzero, sqrt
from scipy.sparse import csr_array

from sae_gap.core import AnyCodes, Column, matching, squares
from sae_gap.metrics import Inferred, Metric

# An atom is found if its cosine is above this.
_CLOSE = 0.9
# Keep at most this many of the matched cosines.
_MOST_COSINES = 10_000
_LEVELS = ("roots", "children", "grandchildren", "great_grandchildren")
_QUARTILES = ("frequent", "common", "uncommon", "rare")


def dictionary_recovery(
    match: matching.Match,
    learned: Float[ArrayLike, "input_dim learned"],
    truth: Float[ArrayLike, "input_dim true"],
) -> dict[str, float | list[float]]:
    """Means over the true atoms a_j of the cosine, angle and norm ratio with their partners d_j.

    `cosine = mean |cos(d_j, a_j)|`, `close = mean 1[|cos| > 0.9]`, `angle = mean arccos |cos|`,
    `norm_ratio = mean ‖d_j‖ / ‖a_j‖`. A true atom whose partner is missing or zero has cosine 0,
    angle π/2 and norm ratio 0.

    Args:
      match: `match_atoms(learned, truth)`.
      learned: learned dictionary, (input_dim, num_learned).
      truth: true dictionary, (input_dim, num_true).

    Returns:
      `cosine`, `close` in [0, 1], `angle` in radians, `norm_ratio` (over the true atoms that are
      not zero), and `cosines`: every matched |cosine| to 4 decimals, in descending order; if there
      are more than 10,000, as many from the largest to the smallest at equal steps of rank.
    """
    cosines = abs(match.cosine)
    norms = sqrt(squares(asarray(learned).T))
    norms = np.where(match.learned < 0, 0.0, norms[match.learned])
    true_norms = sqrt(squares(asarray(truth).T))
    is_atom = true_norms > 0
    ratios = norms[is_atom] / true_norms[is_atom]
    shown = min(len(cosines), _MOST_COSINES)
    ranks = np.linspace(0, len(cosines) - 1, shown).round().astype(int)
    return {
        "cosine": float(cosines.mean()),
        "close": float((cosines > _CLOSE).mean()),
        "angle": float(np.arccos(cosines).mean()),
        "norm_ratio": float(ratios.mean()) if ratios.size else 0.0,
        "cosines": np.sort(cosines)[::-1][ranks].round(4).tolist(),
    }


def measure(inferred: Inferred) -> dict[str, float | list[float]]:
    """`dictionary_recovery`, if the true dictionary is known and one was learned."""
    truth = inferred.task.dictionary
    if inferred.match is None or truth is None:
        return {}
    return dictionary_recovery(inferred.match, inferred.model.decoder, truth)


METRIC = Metric(
    "dictionary",
    measure,
    {
        "cosine": Column("matched cosine", 1.0),
        "close": Column("share of atoms found (cosine > 0.9)", 1.0, "cos > .9"),
        "angle": Column("angle to the true atom (rad)", 0.0),
        "norm_ratio": Column("length of atoms, learned / true", 1.0),
    },
)


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
    cosine = abs(match.cosine)
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
        for depth, name in enumerate(_LEVELS[: level.max() + 1]):
            groups[name] = flatnonzero(level == depth)
        groups["free"] = flatnonzero(level < 0)
    fired = (csr_array(true_codes) > 0).sum(axis=0)
    order = np.argsort(-fired, kind="stable")
    return groups | dict(
        zip(_QUARTILES, np.array_split(order, len(_QUARTILES)), strict=True)
    )


def _atoms(inferred: Inferred) -> dict[str, float]:
    """`atom_scores`, if the truth is known and a dictionary was learned."""
    true_codes = inferred.split("id").codes
    tree = inferred.task.tree
    if inferred.match is None or true_codes is None:
        return {}
    groups = groups_of(true_codes, tree and tree.level)
    width = inferred.model.decoder.shape[1]
    return atom_scores(inferred.match, width, inferred.nearest, groups)


ATOMS = Metric(
    "atoms",
    _atoms,
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
