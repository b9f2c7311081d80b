"""How much of the variance codes leave unexplained, and how many latents they use.

`METRIC` scores activations of a network, with sums by document; `EXPLAINED` scores drawn data.
`PREDICTABILITY` scores predictions of a transcoder's targets from its inputs, without any codes.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy import asarray, sqrt

from sae_gap.core import Column, evenly_spaced, product, slices, squares
from sae_gap.encoders import Predicted, regression
from sae_gap.metrics import Inferred, Metric, explained, fires, fvu, spread

# How many neighbours are averaged, of how many training rows; and rows that are compared at once.
NEIGHBOURS = 10
TRAIN = 20_000
CHUNK = 500
# Signals shorter than this have no shrinkage.
_SHORTEST = 1e-6
# Call a latent dead only if each had 20 chances to fire on average.
CHANCES = 20


def measure(inferred: Inferred) -> dict[str, Any]:
    """The `fvu` of the samples that count, `Σ‖x - x̂‖² / Σ‖x - x̄‖²` about their own mean x̄.

    Returns:
      The scores of `explained`, among them `fvu`; its numerator and denominator by document,
      `errors` and `variance`; `fvu_outliers`, the FVU of outlier tokens if these do not count; the
      mean `l0`; `fired`, the latents that are on in any sample that counts; whether an encoder is
      `dead`: it fires less than one latent a sample, or most of its latents never fire though each
      had `CHANCES` chances; `num_scored` and `num_latents`.
    """
    x = inferred.activations
    counts = inferred.counts
    guess = inferred.reconstruction
    errors = squares(x - guess)
    variance = squares(x - x[counts].mean(axis=0, dtype=float))
    uses = fires(inferred.codes["id"])[counts].sum(axis=0)
    used = int(uses.sum())
    fired = uses > 0
    samples = int(counts.sum())
    width = len(uses)
    found: Any = {
        "errors": inferred.by_document(errors),
        "variance": inferred.by_document(variance),
        "l0": used / samples,
        "fired": int(fired.sum()),
        "num_scored": samples,
        "num_latents": width,
    } | explained(x[counts], guess[counts])
    network = inferred.task.network
    every = np.ones_like(counts) if network is None else network.ordinary
    if (every > counts).any():
        found["fvu_outliers"] = float(errors[every].sum() / spread(x[every]).sum())
    own = inferred.learner and inferred.encoder == inferred.learner.encode
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
    needs=lambda found: (
        None if found.model.dictionary is not None else "there is no dictionary"
    ),
)


def r2_and_shrinkage(
    signals: Float[np.ndarray, "n input_dim"], guess: Float[np.ndarray, "n input_dim"]
) -> dict[str, float]:
    """`r2 = 1 - Σ‖y - ŷ‖² / Σ‖y - ȳ‖²` and `shrinkage = mean ‖ŷ‖ / ‖y‖`, the mean over signals
    longer than 1e-6.

    Args:
      signals: (n, input_dim), not all equal.
      guess: their reconstructions ŷ.
    """
    lengths = sqrt(squares(signals))
    long = lengths > _SHORTEST
    shrinkage = (sqrt(squares(guess))[long] / lengths[long]).mean()
    return {"r2": 1 - explained(signals, guess)["fvu"], "shrinkage": float(shrinkage)}


def _explained(inferred: Inferred) -> dict[str, float]:
    """`r2_and_shrinkage` of every scored split, with known truth and a learned dictionary."""
    if inferred.model.dictionary is None or inferred.task.dictionary is None:
        return {}

    def score(name: str) -> dict[str, float]:
        fit = inferred.terms(inferred.codes[name], name).fit
        guess = fit + asarray(inferred.model.bias)
        return r2_and_shrinkage(asarray(inferred.split(name).signals), guess)

    return inferred.by_split(score)


EXPLAINED = Metric(
    "explained",
    _explained,
    {
        "r2": Column("variance explained, R²", 1.0, "R²"),
        "shrinkage": Column("length of reconstructions, to signals", 1.0),
    },
    everywhere=False,
)


def _predicted(inferred: Inferred) -> dict[str, float]:
    """The FVU of three predictions of the activations from the inputs, on rows that count.

    Each bounds from above what no function of the input explains: `ridge_fvu`, of a ridge
    regression; `neighbours_fvu`, of the mean of the nearest training rows; and `network_fvu`, of
    the network whose prediction was coded. `network_rows` are the training rows of that network.
    """
    encoder = inferred.encoder
    if not isinstance(encoder, Predicted):
        return {}
    task = inferred.inference.task
    kept = inferred.counts
    inputs = asarray(task.id.inputs)[kept]
    x = inferred.activations[kept]
    train_inputs = jnp.asarray(task.train.inputs)
    train_signals = jnp.asarray(task.train.signals)
    centre = train_inputs.mean(axis=0)
    mean = train_signals.mean(axis=0)
    known = train_inputs - centre
    centred = inputs - centre
    slope = regression(known, train_signals - mean)
    few = evenly_spaced(len(known), TRAIN)
    neighbours = _nearest(
        asarray(centred), asarray(known[few]), asarray(train_signals[few])
    )
    network = encoder.known.value(jnp.asarray(inputs))  # type: ignore[union-attr]
    return {
        "ridge_fvu": fvu(x, asarray(mean + product(centred, slope))),
        "neighbours_fvu": fvu(x, neighbours),
        "network_fvu": fvu(x, asarray(network)),
        "network_rows": len(known),
    }


def _nearest(inputs: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values at the known inputs nearest to each input, (n, input_dim). Subtract a
    common centre from both first: a large mean costs their distances digits.
    """
    half = 0.5 * (known**2).sum(axis=1)
    last = min(NEIGHBOURS, len(known)) - 1
    means = []
    for rows in slices(len(inputs), CHUNK):
        distances = half - inputs[rows] @ known.T
        nearest = np.argpartition(distances, last, axis=1)[:, :NEIGHBOURS]
        means.append(values[nearest].mean(axis=1))
    return np.concatenate(means)


PREDICTABILITY = Metric(
    "predictability",
    _predicted,
    {
        "ridge_fvu": Column("FVU of a ridge regression on the input", 0.0, "ridge FVU"),
        "neighbours_fvu": Column(
            "FVU of the nearest inputs' mean", 0.0, "neighbours FVU"
        ),
        "network_fvu": Column("FVU of a network of the input", 0.0, "network FVU"),
    },
    version=2,
    everywhere=False,
)
