"""How much of the signals the codes explain, and how much shorter reconstructions are than
signals.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core.codes import AnyCodes, dense_chunks
from sae_gap.core.registry import Column
from sae_gap.core.rows import squares
from sae_gap.metrics.metric import Inferred, Metric

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
    mean = every.mean(axis=0, dtype=np.float64)
    lost = square = varied = 0.0
    ratios = []
    for rows, part in dense_chunks(codes):
        target, linear = every[rows], part @ atoms.T
        # Subtract the offset first, and take variances about the mean: a large common part would
        # lose both to rounding.
        lost += float(squares(target - offset - linear).sum())
        square += float(squares(target).sum())
        varied += float(squares(target - mean).sum())
        long, length = np.sqrt(squares(target)), np.sqrt(squares(linear + offset))
        ratios.append(length[long > _SHORTEST] / long[long > _SHORTEST])
    shares = np.concatenate(ratios)
    return {
        # Rounding gives a constant a tiny variance, which counts as none.
        "r2": 1 - lost / varied if varied > float(np.finfo(np.float32).eps) ** 2 * square else 0.0,
        "shrinkage": float(shares.mean()) if len(shares) else 0.0,
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
