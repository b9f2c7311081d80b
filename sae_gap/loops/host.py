"""The screened pursuit and least squares on supports on arrays of NumPy: blocks of rows, shared
among all cores; imports no JAX.

The problem alone decides which rows share a block, so the bits do not depend on the threads. The
loops are imported on first use: Numba takes half a second to load.
"""

import numpy as np
from jaxtyping import Float, Int

from sae_gap.core.pursuit import WHOLE
from sae_gap.runtime.cores import on_cores, one_blas_thread

# Rows of a block at least and at most, and rows of a Gram matrix to multiply at once.
FEWEST_ROWS, MOST_ROWS, FEW_ATOMS = 16, 256, 2**10


def pursue(
    signals, atoms, num_candidates, sizes, threshold=0.0, proposals=None
):
    from sae_gap.loops import screened

    kind, shape = atoms.dtype, (len(signals), sizes[-1])
    # For writable arrays Numba would compile the loops again.
    signals, atoms = map(_read_only, (signals, atoms))
    chosen, codes, gains = np.empty(shape, np.int64), np.empty(shape, kind), np.empty(shape, kind)
    paid = len(atoms) ** 2 <= min(WHOLE, len(signals) * len(sizes) * num_candidates**2)
    whole, energy = np.empty((len(atoms) * paid,) * 2, kind), np.einsum("ij,ij->i", atoms, atoms)
    proposals = np.empty((0, 0), kind) if proposals is None else proposals
    rest = num_candidates, np.array(sizes), kind.type(threshold)

    def multiply(begin):
        rows = slice(begin, min(begin + FEW_ATOMS, len(atoms)))
        np.matmul(atoms[rows], atoms[: rows.stop].T, out=whole[rows, : rows.stop])
        whole[:begin, rows] = whole[rows, :begin].T

    def work(own):
        results = chosen[own], codes[own], gains[own]
        screened.pursue_block(signals[own], atoms, energy, whole, _read_only(proposals[own]), *rest, *results)

    with one_blas_thread():
        on_cores(multiply, range(0, len(whole), FEW_ATOMS)[::-1])
        on_cores(work, _blocks(len(signals)))
    return chosen, codes, gains


def _blocks(count):
    size = max(1, min(max(-(-count // 4), FEWEST_ROWS), MOST_ROWS))
    return [slice(begin, begin + size) for begin in range(0, count, size)]


def _read_only(array):
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array
