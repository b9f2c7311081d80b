"""The constants of a law, computed once: the features' directions, rates, correlations and
magnitudes.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_gap.data import Law
from sae_gap.data.worlds import synthsae_files

# The least share of a feature's variance that stays independent.
_LEAST_REST = 0.01
# Streams of random numbers from a world's seed.
_ATOMS, _STD, _FACTOR, _OTHER_FACTOR = 42, 43, 46, 47
# Adam's constants for pushing atoms apart.
_RATE, _BETAS, _EPSILON = 3e-4, (0.9, 0.999), 1e-8

# A number for each feature; atoms as rows.
Numbers = Float[np.ndarray, " N"]
Parents = Int[np.ndarray, " N"]
Flags = Bool[np.ndarray, " N"]
Atoms = Float[np.ndarray, "N input_dim"]


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

    rates: Numbers
    factor: Float[np.ndarray, "N rank"]
    rest: Numbers
    mean: Numbers
    std: Numbers
    parent: Parents
    level: Parents
    exclusive: Flags
    scaled: Flags
    lognormal: float = 0.0


def base_rates(law: Law) -> Numbers:
    """Returns the Zipf law p_i, (N,); see `Law`."""
    ranks = np.arange(1, law.num_latents + 1, dtype=np.float64)
    # Dividing the ranks keeps their powers from overflowing; a common factor of all r_i cancels.
    ranked = (ranks if law.exponent > 0 else ranks / law.num_latents) ** -law.exponent
    span = ranked[0] - ranked[-1]
    share = (ranked - ranked[-1]) / span if span else np.ones(law.num_latents)
    return law.least + (law.most - law.least) * share


def plant(law: Law) -> tuple[Parents, Parents]:
    """Plants trees level by level from feature 0 on; returns parents and levels, (N,) each."""
    parent, level = np.full((2, law.num_latents), -1)
    sizes = law.roots * law.branching ** np.arange(law.depth + 1)
    level[: sizes.sum()] = np.repeat(np.arange(law.depth + 1), sizes)
    parent[law.roots : sizes.sum()] = np.arange(sizes[1:].sum()) // max(1, law.branching)
    return parent, level


def compensated(base: Numbers, parent: Parents, exclusive: Flags) -> Numbers:
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


def _correlate(seed, scale, shape):
    """Returns the correlation's factor F and the rest, `δ_i = 1 - Σ_j F_ij²`, at least .01."""
    factor = scale * np.random.default_rng(seed).standard_normal(shape)
    square = np.sum(factor**2, axis=1)
    large = square > 1 - _LEAST_REST
    factor[large] *= np.sqrt((1 - _LEAST_REST) / square[large])[:, None]
    return factor, np.where(large, _LEAST_REST, 1 - square)


@functools.lru_cache(maxsize=4)
def firing_of(law: Law) -> Firing:
    """Returns the constants of a law, computed or read from the files of a published world."""
    if law.folder is not None:
        return Firing(**synthsae_files.read_firing(law.folder))
    number, (parent, level) = law.num_latents, plant(law)
    exclusive, scaled = (np.full(number, flag) for flag in (law.exclusive, law.scale_children))
    rng = np.random.default_rng([law.seed, _STD])
    mean = np.linspace(law.loudest, law.softest, number)
    std = np.abs(law.spread[0] + law.spread[1] * rng.standard_normal(number))
    rates = compensated(base_rates(law), parent, exclusive)
    rates[number - law.dense :] = 0.5
    factor, rest = _correlate([law.seed, _FACTOR], law.correlation, (number, law.rank))
    trees = parent, level, exclusive, scaled
    return Firing(rates, factor, rest, mean, std, *trees, law.lognormal)


def out_of_distribution(law: Law) -> Firing:
    """Returns the same rates, magnitudes and trees with another correlation, so that other features
    fire together.
    """
    firing, scale = firing_of(law), law.correlation
    if law.folder is not None and firing.factor.size:
        scale = float(np.sqrt(np.mean(firing.factor**2)))
    factor, rest = _correlate([law.seed, _OTHER_FACTOR], scale, firing.factor.shape)
    return dataclasses.replace(firing, factor=factor, rest=rest)


@functools.lru_cache(maxsize=2)
def atoms_of(law: Law) -> tuple[Atoms, Float[np.ndarray, " input_dim"]]:
    """Returns the unit atoms as rows and the bias, in float32: drawn from the seed, or read from
    the files of a published world.
    """
    if law.folder is not None:
        return synthsae_files.read_atoms(law.folder)
    rng = np.random.default_rng([law.seed, _ATOMS])
    atoms = rng.standard_normal((law.num_latents, law.input_dim), np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    bias = rng.standard_normal(law.input_dim, np.float32)
    bias *= np.float32(law.bias) / np.linalg.norm(bias)
    atoms, last = push_apart(atoms, law.orthogonal_steps), law.num_latents - law.dense
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
    atoms, number = atoms.copy(), np.float32(len(atoms))
    first, second = np.zeros_like(atoms), np.zeros_like(atoms)
    for step in range(1, steps + 1):
        squares = np.einsum("ij,ij->i", atoms, atoms)[:, None]
        slope = atoms @ (atoms.T @ atoms) + (number * (squares - 1) - squares) * atoms
        slope *= 4
        first += (1 - _BETAS[0]) * (slope - first)
        second += (1 - _BETAS[1]) * (slope * slope - second)
        scale = np.sqrt(second / (1 - _BETAS[1] ** step)) + _EPSILON
        atoms -= _RATE / (1 - _BETAS[0] ** step) * first / scale
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
