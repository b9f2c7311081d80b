"""The fraction of the variance of activations that codes leave unexplained, with its sums by
document, and how many latents they use.

It is for activations of a network: for drawn data `explained` says the same.
"""

import numpy as np

from sae_gap.core import Column, dense_chunks, squares
from sae_gap.metrics import Inferred, Metric, spread
from sae_gap.metrics.definitions import explained

# Call a latent dead only if each had 20 chances to fire on average.
CHANCES = 20


def measure(inferred: Inferred) -> dict[str, float | list[float]]:
    """The `fvu` of the samples that count, `Σ‖x - x̂‖² / Σ‖x - x̄‖²` about their own mean x̄.

    Returns:
      The scores of `explained`, among them `fvu`; its numerator and denominator by document,
      `errors` and `variance`; `fvu_outliers`, the FVU of outlier tokens if these do not count; the
      mean `l0`; `fired`, the latents that are on in any sample that counts; whether an encoder is
      `dead`: it fires less than one latent a sample, or most of its latents never fire though each
      had `CHANCES` chances; `num_scored` and `num_latents`.
    """
    x, counts, guess = inferred.activations, inferred.counts, inferred.reconstruction
    errors = squares(x - guess)
    variance = np.zeros(len(x))
    variance[counts] = spread(x[counts])
    used, fired = 0, np.zeros(inferred.codes["id"].shape[1], bool)
    for rows, codes in dense_chunks(inferred.codes["id"]):
        on = codes[counts[rows]] != 0
        used, fired = used + int(on.sum()), fired | on.any(axis=0)
    samples, width = int(counts.sum()), len(fired)
    found: dict[str, float | list[float]] = {
        "errors": inferred.by_document(errors),
        "variance": inferred.by_document(variance),
        "l0": used / samples,
        "fired": int(fired.sum()),
        "num_scored": samples,
        "num_latents": width,
    }
    found |= explained(x[counts], guess[counts])
    network = inferred.task.network
    every = np.ones_like(counts) if network is None else network.ordinary
    if (every > counts).any():
        found["fvu_outliers"] = float(errors[every].sum() / spread(x[every]).sum())
    own = inferred.learner is not None and inferred.encoder == inferred.learner.encode
    silent = used >= CHANCES * width and 2 * fired.sum() < width
    return found | {"dead": bool(own and (used < samples or silent))}


METRIC = Metric(
    "reconstruction",
    measure,
    {
        "fvu": Column("fraction of variance unexplained, FVU", 0.0, "FVU"),
        "l0": Column("mean L0", heading="L0"),
    },
    everywhere=False,
    needs=lambda found: None if found.model.dictionary is not None else "there is no dictionary",
)
