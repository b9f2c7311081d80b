"""The pursuit of `BatchPursuit` on the host, for few rows of a wide dictionary: on a CPU it takes a
fifth of the time, and none to compile.
"""

import math

import numpy as np
import scipy.sparse
from jaxtyping import Float

from sae_gap.core.pursuit import DEPENDENT, SLACK
from sae_gap.runtime.cores import one_blas_thread
from sae_gap.solvers import sparse_code


def pruned_pursuit(
    atoms: Float[np.ndarray, "num_latents input_dim"],
    target: Float[np.ndarray, "n input_dim"],
    l0: float,
) -> Float[np.ndarray, "n num_latents"]:
    """Least squares over `z ≥ 0` on the atoms that stay of a screened pursuit of `2 ⌈l0⌉`, where
    those go whose loss costs least, by one threshold for all rows; `coding.screened` is its twin on
    devices.

    Args:
      atoms: of unit length, (num_latents, input_dim).
      target: the rows to code, (n, input_dim).
      l0: mean number of atoms that stay.
    """
    size, m = (min(times * math.ceil(l0), len(atoms)) for times in (2, 4))
    size, rows = min(size, atoms.shape[1]), np.arange(len(target))[:, None]
    chosen, values = np.zeros((len(target), 0), int), target[:, :0]
    pull = toward = target @ atoms.T
    # The second screen is of what the first half leaves.
    for steps in (-(-size // 2), size):
        if chosen.size:
            left = target - np.stack([z @ atoms[j] for z, j in zip(values, chosen, strict=True)])
            pull = left @ atoms.T
            pull[rows, chosen] = np.inf
        near = np.argpartition(-pull, m - 1, axis=1)[:, :m]
        near = near[rows, np.argsort(-pull[rows, near], axis=1)]
        places, on, gram, values = _pursue(atoms, near, toward[rows, near], steps, chosen.shape[1])
        chosen = near[rows, places]

    def fitted(on):
        parts = on.ravel(), chosen.ravel(), np.arange(0, on.size + 1, size)
        support = scipy.sparse.csr_array(parts, toward.shape)
        return np.asarray(sparse_code(target, atoms.T, 0.0, support=support).codes)

    values = fitted(on)[rows, chosen]
    inverse = np.linalg.inv(_within(gram, values > 0))
    gains = values**2 / np.diagonal(inverse, axis1=1, axis2=2)
    least = np.sort(gains, axis=None)[-min(round(l0 * len(target)), gains.size)]
    return fitted((gains >= least) & (gains > 0))


@one_blas_thread()
def _pursue(atoms, near, toward, steps: int, begun: int):
    """Orthogonal matching pursuit among the candidates of each row, the first `begun` of which are
    taken first. Threads cost more than such small products.

    Returns:
      The places of the atoms chosen, whether each adds anything, their Gram matrices and their
      least squares.
    """
    whole = np.stack([held @ held.T for held in map(atoms.__getitem__, near)], dtype=float)
    row, left, pull = np.arange(len(near)), np.diagonal(whole, axis1=1, axis2=2).copy(), toward
    slack = SLACK * np.linalg.norm(toward, axis=1)
    basis = np.zeros((len(near), steps, near.shape[1]))
    places, on = np.zeros(basis.shape[:2], int), np.zeros(basis.shape[:2], bool)
    for i in range(steps):
        best = np.where(left > DEPENDENT, pull, -np.inf).argmax(1) if i >= begun else row * 0 + i
        free, gain = np.maximum(left[row, best], DEPENDENT) ** 0.5, pull[row, best]
        fine = (left[row, best] > DEPENDENT) & ((gain > slack) | (i < begun))
        new = whole[row, best] - np.einsum("is,ism->im", basis[row, :i, best], basis[:, :i])
        new *= (fine / free)[:, None]
        pull, left = pull - new * (gain / free)[:, None], left - new**2
        basis[:, i], places[:, i], on[:, i] = new, best, fine
    gram = whole[row[:, None, None], places[:, :, None], places[:, None]]
    wanted = np.take_along_axis(toward, places, axis=1) * on
    values = np.linalg.solve(_within(gram, on), wanted[:, :, None])[:, :, 0]
    return places, on, gram, values.astype(atoms.dtype)


def _within(gram, on):
    """Gram matrices of some of the atoms, in the place of those of all."""
    return np.where(on[:, :, None] & on[:, None], gram, np.eye(on.shape[1]))
