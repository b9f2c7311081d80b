"""Whether the encoder fires the latents that the optimum uses."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from sae_gap.core.checks import check_unmasked


class Overlap(NamedTuple):
    """How far two supports agree on each sample, and which latents either uses at all.

    Attributes:
      jaccard: `|E ∩ O| / |E ∪ O|`, (n,), E the encoder's support and O that of the optimum.
      precision: `|E ∩ O| / |E|`, (n,).
      recall: `|E ∩ O| / |O|`, (n,).
      fired: whether the encoder fires a latent on any sample, (num_latents,).
      used: whether the optimum uses it on any, (num_latents,).
    """

    jaccard: Float[np.ndarray, " n"]
    precision: Float[np.ndarray, " n"]
    recall: Float[np.ndarray, " n"]
    fired: Bool[np.ndarray, " num_latents"]
    used: Bool[np.ndarray, " num_latents"]


def support_overlap(codes: Float[ArrayLike, "n num_latents"], optimum: Float[ArrayLike, "n num_latents"]) -> Overlap:
    """Compares the supports of an encoder's codes and of the optimum, `z ≠ 0`.

    Args:
      codes: the encoder's, (n, num_latents).
      optimum: the best codes of the same samples, (n, num_latents).

    Returns:
      The overlap. Two empty supports agree fully; an empty one and another do not at all.

    Raises:
      ValueError: the shapes differ.
    """
    check_unmasked("codes", codes)
    check_unmasked("optimum", optimum)
    mine, best = np.asarray(codes) != 0, np.asarray(optimum) != 0
    if mine.shape != best.shape:
        raise ValueError(f"codes and optimum must have one shape, but they have {mine.shape} and {best.shape}.")
    both, count, wanted = (mine & best).sum(axis=1), mine.sum(axis=1), best.sum(axis=1)
    either = count + wanted - both

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(both, of, out=np.where(either > 0, 0.0, 1.0), where=of > 0)

    return Overlap(share(either), share(count), share(wanted), mine.any(axis=0), best.any(axis=0))
