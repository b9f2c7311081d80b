"""Latents as detectors of features, as SynthSAEBench scores them.

Codes are looked at a few samples at a time, so that no more of sparse ones is ever dense than those.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core.checks import as_real, shown
from sae_gap.core.codes import SparseCodes, dense_chunks, shape_of
from sae_gap.core.registry import Column
from sae_gap.metrics.metric import SCORED, Inferred, Metric, of_split


class Firing(NamedTuple):
    """How often each latent fired, its feature did, and both; and over how many samples."""

    fired: Int[np.ndarray, " latent"]
    true: Int[np.ndarray, " latent"]
    both: Int[np.ndarray, " latent"]
    samples: int


def count(
    nearest: Int[np.ndarray, " latent"],
    true_codes: Float[ArrayLike, "n latent"] | SparseCodes,
    codes: Float[ArrayLike, "n latent"] | SparseCodes,
    least: Sequence[Float[ArrayLike, " latent"] | float] = (0.0,),
) -> list[Firing]:
    """Counts firings: of latent j where `|z_j| > least_j`, of its feature where that has a code above zero.

    Args:
      nearest: the feature of each latent.
      true_codes: (n, num_true).
      codes: (n, num_latents), of the same samples.
      least: magnitudes not to count, one rule after the other.

    Returns:
      The counts by each rule.

    Raises:
      ValueError: the numbers of samples, or of latents, differ, or a feature is none.
    """
    samples, width = shape_of(codes)
    nearest = as_indices("nearest", nearest, shape_of(true_codes)[1])
    if shape_of(true_codes)[0] != samples or len(nearest) != width:
        raise ValueError(
            f"codes must be of the true ones' {np.shape(true_codes)[0]} samples and the {len(nearest)} latents, but are "
            f"{np.shape(codes)}."
        )
    if not isinstance(least, tuple | list):
        raise ValueError(f"least must be a tuple of rules, but it is {shown(least)}; give one as (rule,).")
    least = [as_magnitudes(rule, width) for rule in least]
    fired, both = np.zeros((len(least), width), np.int64), np.zeros((len(least), width), np.int64)
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
    """Means over all latents of precision, recall, F1 and accuracy as detectors, each 0 where undefined; L0 and dead latents.

    `precision = both / fired`, `recall = both / true`, `F1 = 2 precision recall / (precision + recall)`.

    Args:
      firing: from `count`.

    Returns:
      `precision`, `recall`, `f1` and `detector_accuracy` in [0, 1], `fired`, the mean number of latents that fire in a sample,
      and `dead`, how many never do.

    References:
      Chanin & Garriga-Alonso (2026), "SynthSAEBench", arXiv:2602.14687; SAELens, `eval_sae_on_synthetic_data`.
    """
    if not (firing.samples and len(firing.fired)):
        raise ValueError(f"there is nothing to score in {firing.samples} samples of {len(firing.fired)} latents; count some.")
    precision, recall = _ratio(firing.both, firing.fired), _ratio(firing.both, firing.true)
    wrong = firing.fired + firing.true - 2 * firing.both
    return {
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(_ratio(2 * precision * recall, precision + recall).mean()),
        "detector_accuracy": float(1 - wrong.mean() / firing.samples),
        "fired": float(firing.fired.sum() / firing.samples),
        "dead": int(np.sum(firing.fired == 0)),
    }


def as_indices(name: str, indices: Any, number: int, least: int = 0) -> Int[np.ndarray, " some"]:
    """The indices as an array, each from `least` to `number - 1`."""
    whole = as_real(name, indices, "integers, one for each")
    if whole.dtype.kind not in "iu" or whole.ndim != 1 or np.any((whole < least) | (whole >= number)):
        raise ValueError(f"{name} must be a row of integers from {least} to below {number}, but it is {shown(indices)}.")
    return whole


def as_magnitudes(least: Any, width: int) -> Float[np.ndarray, " latent"]:
    """A least magnitude for each latent, of one for all or one for each."""
    magnitudes = as_real("least", least, "one magnitude, or one for each latent")
    if magnitudes.shape not in ((), (width,)) or not np.all(magnitudes >= 0):
        raise ValueError(f"least must be magnitudes of at least 0, one or {width} of them, but it is {shown(least)}.")
    return np.broadcast_to(magnitudes, width)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def measure(inferred: Inferred) -> dict[str, float]:
    """`detection` of every scored split, where the truth is known and a dictionary was learned.

    It is told by two rules: as SAELens counts, wherever a code is not 0, and, as `cut_f1` and the like, above the cuts that the
    codes of the ID split tell, which know nothing of the truth.
    """
    found: dict[str, float] = {}
    if inferred.match is None:
        return found
    for name in SCORED:
        truth = inferred.split(name).codes
        if truth is not None:
            every, cut = map(detection, count(inferred.nearest, truth, inferred.codes[name], (0.0, inferred.cuts)))
            found |= of_split(every, name) | of_split({f"cut_{metric}": value for metric, value in cut.items()}, name)
    return found


_SCORES = {
    "precision": Column("precision of detection", 1, 1.0, "P"),
    "recall": Column("recall of detection", 1, 1.0, "R"),
    "f1": Column("F1 of detection", 1, 1.0, "F1"),
}
METRIC = Metric(
    "detection",
    measure,
    _SCORES
    | {
        f"cut_{name}": Column(f"{column.label} above the cuts", 1, 1.0, f"cut {column.heading}")
        for name, column in _SCORES.items()
    }
    | {
        "detector_accuracy": Column("accuracy of detection", 1, 1.0, ""),
        "fired": Column("latents that fire in a sample", heading="L0"),
        "dead": Column("latents that never fire", -1),
    },
    everywhere=False,
)
