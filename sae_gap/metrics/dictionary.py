"""Recovery of the dictionary: how close the learned atoms are to the true atoms of their pairs."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import Column, matching, squares
from sae_gap.metrics import Inferred, Metric

# An atom is found if its cosine is above this.
_CLOSE = 0.9
# Keep at most this many of the matched cosines.
_MOST_COSINES = 10_000


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
    cosines = np.abs(match.cosine)
    norms, true_norms = (np.sqrt(squares(np.asarray(atoms).T)) for atoms in (learned, truth))
    norms = np.where(match.learned < 0, 0.0, norms[match.learned])
    ratios = norms[true_norms > 0] / true_norms[true_norms > 0]
    shown = np.linspace(0, len(cosines) - 1, min(len(cosines), _MOST_COSINES)).round().astype(int)
    return {
        "cosine": float(cosines.mean()),
        "close": float((cosines > _CLOSE).mean()),
        "angle": float(np.arccos(cosines).mean()),
        "norm_ratio": float(ratios.mean()) if ratios.size else 0.0,
        "cosines": np.sort(cosines)[::-1][shown].round(4).tolist(),
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
