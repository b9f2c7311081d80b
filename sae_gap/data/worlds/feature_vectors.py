"""The directions of a world's features: random directions, pushed apart a little."""

import functools

import numpy as np
from jaxtyping import Float

from sae_gap.data import Law
from sae_gap.data.worlds import synthsae_files

_RATE, _BETAS, _EPSILON = 3e-4, (0.9, 0.999), 1e-8
# The stream of a seed's random numbers that gives the atoms.
_ATOMS = 42


@functools.lru_cache(maxsize=2)
def atoms_of(law: Law) -> tuple[Float[np.ndarray, "N input_dim"], Float[np.ndarray, " input_dim"]]:
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
    atoms = push_apart(atoms, law.orthogonal_steps)
    last = law.num_latents - law.dense
    pairs = atoms[last - 2 * law.antipodal : last].reshape(-1, 2, law.input_dim)
    pairs[:, 1] = -pairs[:, 0]
    return atoms, bias


def push_apart(
    atoms: Float[np.ndarray, "N input_dim"], steps: int
) -> Float[np.ndarray, "N input_dim"]:
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
