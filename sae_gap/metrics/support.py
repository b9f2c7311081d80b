"""Recovery of the support: which latents are on in a sample, through the match of the dictionaries."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.core.codes import SparseCodes
from sae_gap.core.registry import Column
from sae_gap.metrics.metric import SCORED, Inferred, Metric, of_split

# A latent is on above this magnitude.
_ON = 1e-4


def support_recovery(
    match: matching.Match,
    true_codes: Float[ArrayLike, "n true"] | SparseCodes,
    codes: Float[ArrayLike, "n learned"] | SparseCodes,
) -> dict[str, float]:
    """Mean over samples of the precision, recall and F1 of the support, and the mean L0.

    With T the true support `|z| > 1e-4` and P that of the matched code columns, per sample `precision = |P ∩ T| / |P|`,
    `recall = |P ∩ T| / |T|` and `F1 = 2 precision recall / (precision + recall) = 2 |P ∩ T| / (|P| + |T|)`, each 0 where
    undefined. Code columns that are no true atom's partner count in the L0 only.

    Args:
      match: match of the learned with the true dictionary.
      true_codes: true codes, (n, num_true), dense or sparse.
      codes: inferred codes of the same samples, (n, num_learned), likewise.

    Returns:
      `support_precision`, `support_recall`, `support_f1` in [0, 1], and `support_l0`, the mean number of code columns above
      1e-4.

    Raises:
      ValueError: an argument is not a finite, non-empty matrix, samples differ in number, or the match is of other widths.
    """
    truth, inferred = matching.as_codes("true_codes", true_codes), matching.as_codes("codes", codes)
    if len(truth) != len(inferred):
        raise ValueError(
            f"true_codes and codes must hold the same samples, but they have {len(truth)} and {len(inferred)} rows."
        )
    if match.learned.shape[0] != truth.num_latents:
        raise ValueError(f"true_codes have {truth.num_latents} columns, but the match has {match.learned.shape[0]} true atoms.")
    if inferred.num_latents <= match.learned.max():
        raise ValueError(f"codes have {inferred.num_latents} columns, but the match has learned atom {match.learned.max()}.")
    matched = np.flatnonzero(match.learned >= 0)
    true_atoms = np.full(inferred.num_latents, -1)
    true_atoms[match.learned[matched]] = matched
    # Columns that are zero on both sides are on nowhere.
    atoms = true_atoms[np.asarray(inferred.latents)]
    either = np.union1d(atoms[atoms >= 0], truth.latents)
    true_on = np.abs(truth.at(either)) > _ON
    every_on = np.abs(np.asarray(inferred.values)) > _ON
    on = np.zeros_like(true_on)
    on[:, np.searchsorted(either, atoms[atoms >= 0])] = every_on[:, atoms >= 0]
    hits, num_on, num_true = (true_on & on).sum(axis=1), on.sum(axis=1), true_on.sum(axis=1)
    return {
        "support_precision": _mean_ratio(hits, num_on),
        "support_recall": _mean_ratio(hits, num_true),
        "support_f1": _mean_ratio(2 * hits, num_on + num_true),
        "support_l0": float(every_on.sum(axis=1).mean()),
    }


def _mean_ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    return float(np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0).mean())


def measure(inferred: Inferred) -> dict[str, float]:
    """`support_recovery` of every scored split, where the truth is known and a dictionary was learned."""
    found: dict[str, float] = {}
    for name in SCORED:
        truth = inferred.split(name).codes
        if truth is not None and inferred.match is not None:
            found |= of_split(support_recovery(inferred.match, truth, inferred.codes[name]), name)
    return found


METRIC = Metric(
    "support",
    measure,
    {
        "support_f1": Column("support F1", 1, 1.0, "F1"),
        "support_precision": Column("support precision", 1, 1.0, "P"),
        "support_recall": Column("support recall", 1, 1.0, "R"),
        "support_l0": Column("matched latents active"),
    },
)
