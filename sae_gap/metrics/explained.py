"""How much of the signals the codes explain, and how much shorter reconstructions are than
signals.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import AnyCodes, Column, dense_chunks, squares
from sae_gap.metrics import Inferred, Metric, spread

# Signals shorter than this have no shrinkage.
_SHORTEST = 1e-6


def explained(
    signals: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim latent"],
    bias: Float[ArrayLike, " input_dim"],
    codes: AnyCodes,
) -> dict[str, float]:
    """`r2 = 1 - E‖y - ŷ‖² / (E‖y‖² - ‖E y‖²)` with `ŷ = D z + b`, and `shrinkage = mean ‖ŷ‖ / ‖y‖`.

    The mean is over signals longer than 1e-6.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents), atoms of any norm.
      bias: (input_dim,).
      codes: (n, num_latents).

    Returns:
      `r2`, at most 1, and 0 for signals that do not vary; and `shrinkage`, at least 0, and 0 if no
      signal is longer than 1e-6.
    """
    every, atoms, offset = map(np.asarray, (signals, dictionary, bias))
    parts = []
    for rows, part in dense_chunks(codes):
        linear = part @ atoms.T
        # Subtract the offset first: a large common part would lose the rest to rounding.
        parts.append((every[rows] - offset - linear, np.sqrt(squares(linear + offset))))
    error, drawn = map(np.concatenate, zip(*parts, strict=True))
    lost, varied, lengths = squares(error).sum(), spread(every).sum(), np.sqrt(squares(every))
    long = lengths > _SHORTEST
    # Rounding gives a constant a tiny variance, which counts as none.
    varies = varied > float(np.finfo(np.float32).eps) ** 2 * (lengths**2).sum()
    return {
        "r2": float(1 - lost / varied) if varies else 0.0,
        "shrinkage": float((drawn[long] / lengths[long]).mean()) if long.any() else 0.0,
    }


def measure(inferred: Inferred) -> dict[str, float]:
    """`explained` of every scored split, if the truth is known and a dictionary was learned."""
    model = inferred.model
    if model.dictionary is None or inferred.task.dictionary is None:
        return {}

    def score(name):
        signals = inferred.split(name).signals
        return explained(signals, model.decoder, model.bias, inferred.codes[name])

    return inferred.by_split(score)


METRIC = Metric(
    "explained",
    measure,
    {
        "r2": Column("variance explained, R²", 1.0, "R²"),
        "shrinkage": Column("length of reconstructions, to signals", 1.0),
    },
    everywhere=False,
)
