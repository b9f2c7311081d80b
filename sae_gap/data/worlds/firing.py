"""The constants by which the features of a world fire."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

# A number for each feature; atoms as rows.
Numbers = Float[np.ndarray, " N"]
Parents = Int[np.ndarray, " N"]
Flags = Bool[np.ndarray, " N"]
Atoms = Float[np.ndarray, "N input_dim"]
# F of `Firing`.
Factor = Float[np.ndarray, "N rank"]


@dataclass(frozen=True, eq=False)
class Firing:
    """The constants of N features.

    Attributes:
      rates: p̃, the probability that a feature fires before the trees act, (N,).
      factor: F, (N, rank): the normal variables behind the firing are `F ε + √δ η`.
      rest: δ, (N,).
      mean, std: mean and deviation of the magnitudes before they are clipped at zero, (N,).
      lognormal: σ of log-normal magnitudes about these means; 0 gives normal ones.
      parent: the parent of each feature, -1 if it has none, (N,).
      level: levels below its root, 0 for a root, -1 for a feature in no tree, (N,).
      exclusive: whether at most one child of the feature fires, (N,).
      scaled: whether the magnitudes of its children are in proportion to its own, (N,).
    """

    rates: Numbers
    factor: Factor
    rest: Numbers
    mean: Numbers
    std: Numbers
    parent: Parents
    level: Parents
    exclusive: Flags
    scaled: Flags
    lognormal: float = 0.0
