"""How much of what a transcoder explains its input tells, without any codes."""

import jax.numpy as jnp
import numpy as np

from sae_gap.core import Column, evenly_spaced, product
from sae_gap.encoders import Predicted, regression
from sae_gap.metrics import Inferred, Metric, fvu

# How many neighbours are averaged, of how many training rows; and rows that are compared at once.
NEIGHBOURS, TRAIN, CHUNK = 10, 20_000, 500


def measure(inferred: Inferred) -> dict[str, float]:
    """The FVU that predictions of the activations from the input leave on rows that count: of a
    ridge regression and of the mean of the nearest training rows, and of the network whose
    prediction was coded, with the training rows that this network had, `network_rows`. Each FVU
    bounds from above what no function of the input explains.
    """
    encoder, task = inferred.encoder, inferred.inference and inferred.inference.task
    if not isinstance(encoder, Predicted):
        return {}
    kept = inferred.counts
    inputs, x = np.asarray(task.id.inputs)[kept], inferred.activations[kept]
    train = jnp.asarray(task.train.inputs), jnp.asarray(task.train.signals)
    middle, mean = (part.mean(axis=0) for part in train)
    known, near = train[0] - middle, inputs - middle
    slope = regression(known, train[1] - mean)
    few = evenly_spaced(len(train[0]), TRAIN)
    return {
        "ridge_fvu": fvu(x, np.asarray(mean + product(near, slope))),
        "neighbours_fvu": fvu(x, _nearest(*map(np.asarray, (near, known[few], train[1][few])))),
        "network_fvu": fvu(x, np.asarray(encoder.known.value(jnp.asarray(inputs)))),  # type: ignore[union-attr]
        "network_rows": len(known),
    }


def _nearest(inputs, known, values):
    """The mean of the values at the known inputs nearest to each input, (n, input_dim). Subtract a
    common centre from both first: a large mean costs their distances digits.
    """
    half, found = 0.5 * (known**2).sum(axis=1), []
    for start in range(0, len(inputs), CHUNK):
        far = half - inputs[start : start + CHUNK] @ known.T
        places = np.argpartition(far, min(NEIGHBOURS, len(known)) - 1, axis=1)[:, :NEIGHBOURS]
        found.append(values[places].mean(axis=1))
    return np.concatenate(found)


METRIC = Metric(
    "predictability",
    measure,
    {
        "ridge_fvu": Column("FVU of a ridge regression on the input", 0.0, "ridge FVU"),
        "neighbours_fvu": Column("FVU of the nearest inputs' mean", 0.0, "neighbours FVU"),
        "network_fvu": Column("FVU of a network of the input", 0.0, "network FVU"),
    },
    version=2,
    everywhere=False,
)
