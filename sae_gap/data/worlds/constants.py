"""The constants of a law, computed once: the features' directions, rates, correlations and
magnitudes.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy import (
    arange,
    bincount,
    einsum,
    flatnonzero,
    float32,
    float64,
    full,
    linalg,
    linspace,
    ones,
    repeat,
    sqrt,
    where,
)
from numpy.random import default_rng

from sae_gap.data import (
    Atoms,
    Factor,
    Firing,
    Flags,
    Law,
    Numbers,
    Parents,
    read_atoms,
    read_firing,
)

# The least share of a feature's variance that stays independent.
_LEAST_REST = 0.01
# Streams of random numbers from a world's seed.
_ATOMS = 42
_STD = 43
_FACTOR = 46
_OTHER_FACTOR = 47
# Adam's constants for pushing atoms apart.
_RATE = 3e-4
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


def base_rates(law: Law) -> Numbers:
    """Returns the Zipf law p_i, (N,); see `Law`."""
    ranks = arange(1, law.num_latents + 1, dtype=float64)
    # Dividing the ranks keeps their powers from overflowing; a common factor of all r_i cancels.
    ranked = (ranks if law.exponent > 0 else ranks / law.num_latents) ** -law.exponent
    span = ranked[0] - ranked[-1]
    share = (ranked - ranked[-1]) / span if span else ones(law.num_latents)
    return law.least + (law.most - law.least) * share


def plant(law: Law) -> tuple[Parents, Parents]:
    """Plants trees level by level from feature 0 on; returns parents and levels, (N,) each."""
    parent = full(law.num_latents, -1)
    level = full(law.num_latents, -1)
    sizes = law.roots * law.branching ** arange(law.depth + 1)
    planted = sizes.sum()
    level[:planted] = repeat(arange(law.depth + 1), sizes)
    parent[law.roots : planted] = arange(planted - law.roots) // max(1, law.branching)
    return parent, level


def compensated(base: Numbers, parent: Parents, exclusive: Flags) -> Numbers:
    """Raises rates by what the trees take away:
    `p̃_i = min(1, p_i (1 / p_a) (1 + Σ_{j ∈ S} p_j / p_a))`, (N,).

    a is the parent of i, and S are i's siblings if they exclude each other. All p are base rates,
    so a feature does not quite fire at its base rate: the deeper it lies, the more it falls short.
    """
    child = flatnonzero(parent >= 0)
    above = parent[child]
    sums = bincount(above, base[child], len(base))
    rivals = where(exclusive[above], sums[above] - base[child], 0.0)
    rates = base.copy()
    rates[child] *= (1 + rivals / base[above]) / base[above]
    return np.minimum(rates, 1)


def _correlate(
    rng: np.random.Generator, scale: float, shape: tuple[int, ...]
) -> tuple[Factor, Numbers]:
    """Returns the correlation's factor F and the rest, `δ_i = 1 - Σ_j F_ij²`, at least .01."""
    factor = scale * rng.standard_normal(shape)
    square = np.sum(factor**2, axis=1)
    large = square > 1 - _LEAST_REST
    factor[large] *= sqrt((1 - _LEAST_REST) / square[large])[:, None]
    return factor, where(large, _LEAST_REST, 1 - square)


@lru_cache(maxsize=4)
def firing_of(law: Law) -> Firing:
    """Returns the constants of a law, computed or read from the files of a published world."""
    if law.folder:
        return read_firing(law.folder)
    number = law.num_latents
    parent, level = plant(law)
    rng = default_rng([law.seed, _STD])
    mean = linspace(law.loudest, law.softest, number)
    std = np.abs(law.spread[0] + law.spread[1] * rng.standard_normal(number))
    exclusive = full(number, law.exclusive)
    scaled = full(number, law.scale_children)
    rates = compensated(base_rates(law), parent, exclusive)
    rates[number - law.dense :] = 0.5
    rng = default_rng([law.seed, _FACTOR])
    factor, rest = _correlate(rng, law.correlation, (number, law.rank))
    return Firing(
        rates, factor, rest, mean, std, parent, level, exclusive, scaled, law.lognormal
    )


def out_of_distribution(law: Law) -> Firing:
    """Returns the same rates, magnitudes and trees with another correlation, so that other features
    fire together.
    """
    firing = firing_of(law)
    scale = law.correlation
    if law.folder and firing.factor.size:
        scale = float(sqrt(np.mean(firing.factor**2)))
    rng = default_rng([law.seed, _OTHER_FACTOR])
    factor, rest = _correlate(rng, scale, firing.factor.shape)
    return replace(firing, factor=factor, rest=rest)


@lru_cache(maxsize=2)
def atoms_of(law: Law) -> tuple[Atoms, Float[np.ndarray, " input_dim"]]:
    """Returns the unit atoms as rows and the bias, in float32: drawn from the seed, or read from
    the files of a published world.
    """
    if law.folder:
        return read_atoms(law.folder)
    rng = default_rng([law.seed, _ATOMS])
    atoms = rng.standard_normal((law.num_latents, law.input_dim), float32)
    atoms /= linalg.norm(atoms, axis=1, keepdims=True)
    bias = rng.standard_normal(law.input_dim, float32)
    bias *= float32(law.bias) / linalg.norm(bias)
    atoms = push_apart(atoms, law.orthogonal_steps)
    last = law.num_latents - law.dense
    pairs = atoms[last - 2 * law.antipodal : last].reshape(-1, 2, law.input_dim)
    pairs[:, 1] = -pairs[:, 0]
    return atoms, bias


def push_apart(atoms: Atoms, steps: int) -> Atoms:
    """Pushes unit atoms apart by some Adam steps on their coherence.

    The loss is `Σ_{i≠j} (d_i·d_j)² + N Σ_i (‖d_i‖² - 1)²`. Its first term sums the squares of the N
    × N Gram matrix. The smaller matrix DᵀD has the same sum, so the gradient
    `4 D (DᵀD) - 4 ‖d_i‖² d_i` needs no Gram matrix.

    Args:
      atoms: unit rows, (N, input_dim).
      steps: number of Adam steps at rate 3e-4.

    Returns:
      Unit rows, (N, input_dim).
    """
    atoms = atoms.copy()
    number = float32(len(atoms))
    first = np.zeros_like(atoms)
    second = np.zeros_like(atoms)
    for step in range(1, steps + 1):
        squares = einsum("ij,ij->i", atoms, atoms)[:, None]
        slope = atoms @ (atoms.T @ atoms) + (number * (squares - 1) - squares) * atoms
        slope *= 4
        first += (1 - _BETAS[0]) * (slope - first)
        second += (1 - _BETAS[1]) * (slope * slope - second)
        scale = sqrt(second / (1 - _BETAS[1] ** step)) + _EPSILON
        atoms -= _RATE / (1 - _BETAS[0] ** step) * first / scale
    return atoms / linalg.norm(atoms, axis=1, keepdims=True)
