"""Which codes count as on, and from which magnitude, by a latent's own codes alone."""

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import AnyCodes

# A code below this share of the latent's usual magnitude counts as off.
CUT = 1 / 3


def fires(
    codes: AnyCodes, least: Float[ArrayLike, " latent"] | float = 0.0
) -> scipy.sparse.csr_array:
    """Whether the magnitude of each code is above that of its latent, (n, num_latents).

    Args:
      codes: (n, num_latents).
      least: the magnitudes up to which codes count as off.
    """
    held = scipy.sparse.csr_array(codes)
    on = np.abs(held.data) > np.broadcast_to(least, held.shape[1])[held.indices]
    return scipy.sparse.csr_array((on, held.indices, held.indptr), held.shape)


def cuts(codes: AnyCodes, share: float = CUT) -> Float[np.ndarray, " latent"]:
    """For each latent the magnitude below which it counts as off, from its own codes alone.

    It is the least c with `c = share · Σ z² / Σ |z|`, both sums over the latent's codes with
    `|z| > c`: a share of their mean magnitude, each weighted by itself. It is found from 0 upwards.
    A lasso explains what a dictionary lacks by small codes. With a share of a third, the cut
    removes codes a tenth as large as those where the feature is on, even if they are up to 35 times
    as many. A latent without two sizes of codes, whose density falls as `z^-3.5` or more slowly,
    keeps only its few largest.

    Args:
      codes: (n, num_latents); no truth is needed.
      share: the share of the mean magnitude, above 0 and at most 0.99.

    Returns:
      (num_latents,), 0 for a latent that never fires.
    """
    held = scipy.sparse.csr_array(codes)
    size, width = np.abs(held.data, dtype=float), held.shape[1]
    latent, size = held.indices[size > 0], size[size > 0]
    unit, cut = np.zeros(width), np.zeros(width)
    # In units of the latent's largest code, so that no square overflows or underflows.
    np.maximum.at(unit, latent, size)
    size = size / unit[latent]
    # Each round drops codes below a share of the mean of the rest. That raises the mean and so the
    # cut, until no code is dropped.
    while len(size):
        sums = [np.bincount(latent, power, width) for power in (size, size**2)]
        cut = np.where(sums[0] > 0, share * ratio(sums[1], sums[0]), cut)
        stays = size > cut[latent]
        moves = np.bincount(latent[~stays], minlength=width) > 0
        latent, size = latent[stays & moves[latent]], size[stays & moves[latent]]
    return cut * unit


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Float[np.ndarray, " some"]:
    """The quotient of two arrays of equal length, 0 where the denominator is not above 0."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
