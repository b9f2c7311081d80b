"""The directions of a world's features: random ones, pushed apart a little."""

import functools

import numpy as np
from jaxtyping import Float

from sae_gap.data.worlds import synthsae_files
from sae_gap.data.worlds.law import Law

_RATE, _BETAS, _EPSILON = 3e-4, (0.9, 0.999), 1e-8
# The stream of a seed's random numbers that atoms are drawn from.
_ATOMS = 42


def atoms_of(law: Law) -> tuple[Float[np.ndarray, "N input_dim"], Float[np.ndarray, " input_dim"]]:
    """The unit atoms as rows and the bias, in float32: drawn from the seed, or of a published world read from its files.

    Files are read again if they change, of which the title tells.
    """
    return _atoms_of(law, law.title)


@functools.lru_cache(maxsize=2)
def _atoms_of(law: Law, title: str) -> tuple[Float[np.ndarray, "N input_dim"], Float[np.ndarray, " input_dim"]]:
    if law.folder is not None:
        return synthsae_files.read_atoms(law.folder)
    rng = np.random.default_rng([law.seed, _ATOMS])
    atoms = rng.standard_normal((law.num_latents, law.input_dim), np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    bias = rng.standard_normal(law.input_dim, np.float32)
    bias *= np.float32(law.bias) / np.linalg.norm(bias)
    return push_apart(atoms, law.orthogonal_steps), bias


def push_apart(atoms: Float[np.ndarray, "N input_dim"], steps: int) -> Float[np.ndarray, "N input_dim"]:
    """Unit atoms after some Adam steps on their coherence.

    The loss `Σ_{i≠j} (d_i·d_j)² + N Σ_i (‖d_i‖² - 1)²` names the N × N Gram matrix, of which the first term needs only the sum
    of squares. The input_dim × input_dim matrix DᵀD has the same sum, so that the gradient `4 D (DᵀD) - 4 ‖d_i‖² d_i` costs
    input_dim / N of what the Gram matrix would.

    Args:
      atoms: unit rows, (N, input_dim).
      steps: of Adam at rate 3e-4.

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


__all__ = ["atoms_of", "push_apart"]
