"""Which codes count as on, from which magnitude, and how well two supports agree."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpy import bincount, zeros
from scipy.sparse import csr_array

from sae_gap.core import AnyCodes, ratio

# A code below this share of the latent's usual magnitude counts as off.
CUT = 1 / 3


class Overlap(NamedTuple):
    """How far a support agrees with the true one, for each latent or for each sample.

    Attributes:
      size: entries of the support, (n,).
      true: entries of the true one.
      both: entries of both.
    """

    size: Int[np.ndarray, " n"]
    true: Int[np.ndarray, " n"]
    both: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, on: csr_array, true: csr_array, axis: int) -> "Overlap":
        """Counts along an axis of two supports, (n, num_latents): 0 gives the overlap of each
        latent, 1 that of each sample.
        """
        both = on.multiply(true)
        return cls(on.sum(axis=axis), true.sum(axis=axis), both.sum(axis=axis))

    @property
    def precision(self) -> Float[np.ndarray, " n"]:
        """`both / size`, 0 for an empty support."""
        return ratio(self.both, self.size)

    @property
    def recall(self) -> Float[np.ndarray, " n"]:
        """`both / true`, 0 for an empty true support."""
        return ratio(self.both, self.true)

    @property
    def f1(self) -> Float[np.ndarray, " n"]:
        """`2 precision recall / (precision + recall) = 2 both / (size + true)`, 0 for two empty
        supports.
        """
        return ratio(2 * self.both, self.size + self.true)

    @property
    def either(self) -> Int[np.ndarray, " n"]:
        """Entries of at least one support."""
        return self.size + self.true - self.both


def fires(
    codes: AnyCodes, least: Float[ArrayLike, " latent"] | float = 0.0
) -> csr_array:
    """Whether the magnitude of each code is above that of its latent, (n, num_latents).

    Args:
      codes: (n, num_latents).
      least: the magnitudes up to which codes count as off.
    """
    held = csr_array(codes)
    on = abs(held.data) > np.broadcast_to(least, held.shape[1])[held.indices]
    return csr_array((on, held.indices, held.indptr), held.shape)


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
    held = csr_array(codes)
    size = np.abs(held.data, dtype=float)
    width = held.shape[1]
    latent = held.indices[size > 0]
    size = size[size > 0]
    unit = zeros(width)
    cut = zeros(width)
    # In units of the latent's largest code, so that no square overflows or underflows.
    np.maximum.at(unit, latent, size)
    size = size / unit[latent]
    # Each round drops codes below a share of the mean of the rest. That raises the mean and so the
    # cut, until no code is dropped.
    while len(size):
        sums = bincount(latent, size, width)
        squares = bincount(latent, size**2, width)
        cut = np.where(sums > 0, share * ratio(squares, sums), cut)
        stays = size > cut[latent]
        moves = bincount(latent[~stays], minlength=width) > 0
        stays &= moves[latent]
        latent = latent[stays]
        size = size[stays]
    return cut * unit
