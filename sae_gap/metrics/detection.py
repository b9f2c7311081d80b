"""Latents as detectors of features, as SynthSAEBench scores them.

Codes are made dense only a few samples at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core import AnyCodes, Column, dense_chunks
from sae_gap.metrics import Inferred, Metric, ratio


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
    least: Sequence[Float[ArrayLike, " latent"] | float] = (0.0,),
) -> list[Firing]:
    """Counts firings: latent j fires where `|z_j| > least_j`, and its feature is on where its true
    code is above zero.

    Args:
      nearest: the feature of each latent.
      true_codes: (n, num_true).
      codes: (n, num_latents), of the same samples.
      least: rules, each a magnitude up to which a latent counts as off.

    Returns:
      The counts by each rule.
    """
    samples, width = np.shape(codes)
    fired, both = np.zeros((2, len(least), width), np.int64)
    true = np.zeros(width, np.int64)
    for _, part, truth in dense_chunks(codes, true_codes):
        present, size = (truth > 0)[:, nearest], np.abs(part)
        true += present.sum(axis=0)
        for rule, magnitude in enumerate(least):
            on = size > magnitude
            fired[rule] += on.sum(axis=0)
            both[rule] += (on & present).sum(axis=0)
    return [Firing(fired[rule], true, both[rule], samples) for rule in range(len(least))]


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
    precision, recall = ratio(firing.both, firing.fired), ratio(firing.both, firing.true)
    wrong = firing.fired + firing.true - 2 * firing.both
    return {
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(ratio(2 * precision * recall, precision + recall).mean()),
        "detector_accuracy": float(1 - wrong.mean() / firing.samples),
        "fired": float(firing.fired.sum() / firing.samples),
        "dead": int(np.sum(firing.fired == 0)),
    }


def measure(inferred: Inferred) -> dict[str, float]:
    """`detection` of every scored split, if the truth is known and a dictionary was learned.

    A latent fires where its code is not 0, as SAELens counts; for `cut_f1` and the like, where its
    code is above the cut from its own codes of the ID split.
    """

    def score(_, truth, codes):
        nonzero, above = map(detection, count(inferred.nearest, truth, codes, (0.0, inferred.cuts)))
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
        f"cut_{name}": Column(f"{column.label} above the cuts", 1.0, f"cut {column.heading}")
        for name, column in _SCORES.items()
    }
    | {
        "detector_accuracy": Column("accuracy of detection", 1.0, ""),
        "fired": Column("latents that fire in a sample", heading="L0"),
        "dead": Column("latents that never fire"),
    },
    everywhere=False,
)
