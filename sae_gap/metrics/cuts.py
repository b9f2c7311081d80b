"""From which magnitude on a latent counts as on, told from its own codes alone."""

import numpy as np
from jaxtyping import Float

from sae_gap.core.codes import AnyCodes, dense_chunks

# Below this share of what its codes are where they count, a latent is off by the cut.
CUT = 1 / 3


def cuts(codes: AnyCodes, share: float = CUT) -> Float[np.ndarray, " latent"]:
    """For each latent the magnitude below which it counts as off, from its own codes alone.

    The least c with `c = share · Σ z² / Σ |z|`, both sums over its codes with `|z| > c`: so a share
    of the mean magnitude of those, each weighted by itself. It is found from 0 upwards. A lasso
    explains what a dictionary lacks by small codes. At a third, those that are a tenth as large as
    where the latent's feature is on fall below it up to 35 times as many. Codes without two sizes,
    of a density that falls as `z^-3.5` or more slowly, are cut to the largest few.

    Args:
      codes: (n, num_latents), of samples that need no truth.
      share: of that magnitude, above 0 and at most .99.

    Returns:
      (num_latents,), 0 for a latent that never fires.
    """
    width, found = np.shape(codes)[1], [np.zeros((2, 0))]
    for _, part in dense_chunks(codes):
        found.append(np.stack([np.nonzero(part)[1], np.abs(part[part != 0])]))
    place, size = np.concatenate(found, axis=1)
    latent, unit, cut = place.astype(int), np.zeros(width), np.zeros(width)
    # In units of the latent's largest code, so that no square leaves the range of numbers.
    np.maximum.at(unit, latent, size)
    size = size / unit[latent]
    # What is left out is below the mean of the rest, which rises: so does the cut, until it leaves
    # out no more.
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
