"""The constants of a law, computed once: the features' rates, correlations and magnitudes."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_gap.data import Law
from sae_gap.data.worlds import synthsae_files

# The least share of a feature's variance that stays independent.
_LEAST_REST = 0.01
# Streams of random numbers from a world's seed.
_STD, _FACTOR, _OTHER_FACTOR = 43, 46, 47


@dataclasses.dataclass(frozen=True, eq=False)
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

    rates: Float[np.ndarray, " N"]
    factor: Float[np.ndarray, "N rank"]
    rest: Float[np.ndarray, " N"]
    mean: Float[np.ndarray, " N"]
    std: Float[np.ndarray, " N"]
    parent: Int[np.ndarray, " N"]
    level: Int[np.ndarray, " N"]
    exclusive: Bool[np.ndarray, " N"]
    scaled: Bool[np.ndarray, " N"]
    lognormal: float = 0.0


def base_rates(law: Law) -> Float[np.ndarray, " N"]:
    """Returns the Zipf law p_i, (N,); see `Law`."""
    ranks = np.arange(1, law.num_latents + 1, dtype=np.float64)
    # Dividing the ranks keeps their powers from overflowing; a common factor of all r_i cancels.
    ranked = (ranks if law.exponent > 0 else ranks / law.num_latents) ** -law.exponent
    span = ranked[0] - ranked[-1]
    share = (ranked - ranked[-1]) / span if span else np.ones(law.num_latents)
    return law.least + (law.most - law.least) * share


def plant(law: Law) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Plants trees level by level from feature 0 on; returns parents and levels, (N,) each."""
    parent, level = np.full(law.num_latents, -1), np.full(law.num_latents, -1)
    first, size = 0, law.roots
    level[:size] = 0
    for depth in range(1, law.depth + 1):
        start, size = first + size, size * law.branching
        if not size:
            break
        level[start : start + size] = depth
        parent[start : start + size] = first + np.arange(size) // law.branching
        first = start
    return parent, level


def compensated(
    base: Float[np.ndarray, " N"], parent: Int[np.ndarray, " N"], exclusive: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Raises rates by what the trees take away:
    `p̃_i = min(1, p_i (1 / p_a) (1 + Σ_{j ∈ S} p_j / p_a))`, (N,).

    a is the parent of i, and S are i's siblings if they exclude each other. All p are base rates,
    so a feature does not quite fire at its base rate: the deeper it lies, the more it falls short.
    """
    child = np.flatnonzero(parent >= 0)
    above = parent[child]
    sums = np.bincount(above, base[child], len(base))
    rivals = np.where(exclusive[above], sums[above] - base[child], 0.0)
    rates = base.copy()
    rates[child] *= (1 + rivals / base[above]) / base[above]
    return np.minimum(rates, 1)


def correlate(
    law: Law, stream: int = _FACTOR
) -> tuple[Float[np.ndarray, "N rank"], Float[np.ndarray, " N"]]:
    """Returns the correlation's factor F and the rest, `δ_i = 1 - Σ_j F_ij²`, at least .01."""
    rng = np.random.default_rng([law.seed, stream])
    factor = law.correlation * rng.standard_normal((law.num_latents, law.rank))
    square = np.sum(factor**2, axis=1)
    large = square > 1 - _LEAST_REST
    factor[large] *= np.sqrt((1 - _LEAST_REST) / square[large])[:, None]
    return factor, np.where(large, _LEAST_REST, 1 - square)


@functools.lru_cache(maxsize=4)
def firing_of(law: Law) -> Firing:
    """Returns the constants of a law, computed or read from the files of a published world."""
    if law.folder is not None:
        return Firing(**synthsae_files.read_firing(law.folder))
    parent, level = plant(law)
    exclusive, scaled = (
        np.full(law.num_latents, flag) for flag in (law.exclusive, law.scale_children)
    )
    rng = np.random.default_rng([law.seed, _STD])
    mean = np.linspace(law.loudest, law.softest, law.num_latents)
    std = np.abs(law.spread[0] + law.spread[1] * rng.standard_normal(law.num_latents))
    rates = compensated(base_rates(law), parent, exclusive)
    rates[law.num_latents - law.dense :] = 0.5
    trees = parent, level, exclusive, scaled
    return Firing(rates, *correlate(law), mean, std, *trees, law.lognormal)


def out_of_distribution(law: Law) -> Firing:
    """Returns the same rates, magnitudes and trees with another correlation, so that other features
    fire together.
    """
    firing = firing_of(law)
    scale = law.correlation
    if law.folder is not None and firing.factor.size:
        scale = float(np.sqrt(np.mean(firing.factor**2)))
    redrawn = dataclasses.replace(
        law, folder=None, digest=None, roots=0, correlation=scale, rank=firing.factor.shape[1]
    )
    factor, rest = correlate(redrawn, _OTHER_FACTOR)
    return dataclasses.replace(firing, factor=factor, rest=rest)
