"""The screened pursuit for arrays of NumPy: blocks of rows, shared among all cores.

The problem alone decides which rows share a block, so the bits do not depend on the threads. The
loops are imported on first use: Numba takes half a second to load.
"""

import math

import numpy as np
from numpy import empty

from sae_gap.core.pursuit import whole_pays
from sae_gap.core.rows import slices
from sae_gap.runtime.cores import on_cores, one_blas_thread

# Rows of a block at least and at most, and rows of a Gram matrix to multiply at once.
FEWEST_ROWS = 16
MOST_ROWS = 256
FEW_ATOMS = 2**10


def screened_pursuit(
    signals,
    atoms,
    num_candidates,
    sizes,
    threshold=None,
    proposals=None,
    *,
    plain=False,
    signed=False,
    largest=None,
):
    """Runs a screened pursuit, then solves least squares over `z ≥ 0`. One screen of all atoms is
    orthogonal matching pursuit.

    Args:
      signals: finite rows, (n, input_dim).
      atoms: of unit length or zero, (num_latents, input_dim), of the type of the signals.
      num_candidates: candidates of a screen; see `core.pursuit.screen_sizes`.
      sizes: numbers of atoms after the screens.
      threshold: τ; backward elimination drops atoms while that raises the squared error by less
        than τ². None drops none and leaves all gains zero.
      proposals: the first screen takes the largest of these; None takes correlations.
      plain: whether codes are the least squares of either sign on all atoms of the last screen, as
        in orthogonal matching pursuit; there are then no gains.
      signed: whether a step takes the atom of the largest |correlation|.
      largest: the largest Gram matrix of all atoms that is stored, in floats; None takes `WHOLE`.

    Returns:
      The numbers of the chosen atoms, their codes (zero for an unused atom), and the largest rise
      of the squared error up to the drop of each, if all were dropped.
    """
    from sae_gap.loops.screened import Problem, Result, pursue_block

    kind = atoms.dtype
    shape = (len(signals), sizes[-1])
    result = Result(empty(shape, np.int64), empty(shape, kind), np.zeros(shape, kind))
    # For many rows it pays to compute the Gram matrix of all atoms.
    paid = whole_pays(len(atoms), len(signals), num_candidates, sizes, largest)
    signals = read_only(signals)
    proposals = read_only(empty((0, 0), kind) if proposals is None else proposals)
    problem = Problem(
        atoms=read_only(atoms),
        energy=np.einsum("ij,ij->i", atoms, atoms),
        gram=gram_matrix(atoms[: len(atoms) * paid]),
        num_candidates=num_candidates,
        sizes=np.array(sizes),
        prunes=threshold is not None,
        least=kind.type(threshold or 0) ** 2,
        plain=plain,
        signed=signed,
    )

    def work(rows: slice) -> None:
        block = Result(*(part[rows] for part in result))
        pursue_block(signals[rows], proposals[rows], problem, block)

    count = len(signals)
    # Blocks are of about equal sizes.
    size = min(max(-(-count // 4), FEWEST_ROWS), MOST_ROWS)
    with one_blas_thread():
        on_cores(work, slices(count, size))
    return tuple(result)


def gram_matrix(atoms):
    """Multiplies all atoms, (num_latents, input_dim), with each other, on all cores."""
    gram = empty((len(atoms), len(atoms)), atoms.dtype)

    def multiply(begin):
        rows = slice(begin, min(begin + FEW_ATOMS, len(atoms)))
        np.matmul(atoms[rows], atoms[: rows.stop].T, out=gram[rows, : rows.stop])
        gram[:begin, rows] = gram[rows, :begin].T

    with one_blas_thread():
        on_cores(multiply, range(0, len(atoms), FEW_ATOMS)[::-1])
    return gram


def spread(chosen, codes, num_latents):
    """Puts the codes of some atoms, (n, size) like their numbers, in their places among all."""
    dense = aligned_zeros((len(codes), num_latents), codes.dtype)
    used = np.nonzero(codes)
    dense[used[0], chosen[used]] = codes[used]
    return dense


def aligned_zeros(shape, dtype):
    """Zeros aligned to a cache line: JAX uses such an array in place and copies any other."""
    size = math.prod(shape) * dtype.itemsize
    line = 64
    memory = np.zeros(size + line, np.uint8)
    begin = -memory.ctypes.data % line
    return memory[begin : begin + size].view(dtype).reshape(shape)


def read_only(array):
    """A view that cannot be written to: for one that can, Numba would compile the loops again."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
