"""CPU loops without certificates, for learners: blocks of samples, shared among all cores.

The problem alone decides which samples share a block, so the bits do not depend on the threads. XLA
compiles and runs nothing here, so its programs may call these functions back. The loops are
imported on first use: Numba takes half a second to load.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy import empty

from sae_gap.core import slices
from sae_gap.loops.block import TILE
from sae_gap.loops.host import read_only
from sae_gap.runtime import on_cores, one_blas_thread
from sae_gap.runtime.cores import cores
from sae_gap.solvers import num_blocks

# Samples of a block.
MANY_SAMPLES = 64


def reweighted_lasso(
    signals: np.ndarray,
    atoms: np.ndarray,
    threshold: float,
    epsilon: float,
    *,
    num_slots: int,
    num_rounds: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The result of `reweighted.reweighted_lasso`, up to rounding.

    Args:
      signals: (n, input_dim).
      atoms: (num_padded, input_dim), from `reweighted.atom_rows`.
      threshold: as there.
      epsilon: likewise.
      num_slots: atoms of a sample at most.
      num_rounds: rounds of candidates.

    Returns:
      Places and codes, (n, slots), the non-zero codes of a sample first, and the residual.
    """
    from sae_gap.loops.reweighted import code_block

    signals = read_only(signals)
    atoms = read_only(atoms)
    places = empty((len(signals), num_slots), np.int32)
    codes = empty(places.shape, signals.dtype)
    residual = np.empty_like(signals)
    eps = float(np.finfo(signals.dtype).eps)
    blocks = num_blocks(num_slots)
    tile = max(1, TILE // blocks) * blocks
    # As in `pivoting.solve`.
    close = eps ** (2 / 3)

    def work(rows: slice) -> None:
        some = signals[rows]
        pull = empty(len(some) * tile, signals.dtype)
        code_block(
            some,
            atoms,
            threshold,
            epsilon,
            num_rounds,
            blocks,
            close,
            eps,
            pull,
            places[rows],
            codes[rows],
            residual[rows],
        )

    _in_blocks(work, len(signals))
    return places, codes, residual


def _in_blocks(work: Callable[[slice], None], count: int) -> None:
    with one_blas_thread():
        on_cores(work, slices(count, MANY_SAMPLES))


def sums(
    places: np.ndarray, codes: np.ndarray, residual: np.ndarray, num_latents: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the result of `reweighted_lasso`: Zᵀ R, (num_latents, input_dim), and for each atom the
    sum of its squared codes and the number of its non-zero codes.
    """
    from sae_gap.loops.reweighted import add_products

    input_dim = residual.shape[1]
    dtype = residual.dtype
    products = np.zeros((num_latents, input_dim), dtype)
    # Each thread goes through all samples in order, for its own columns.
    width = -(-input_dim // (cores() if len(codes) > MANY_SAMPLES else 1))

    def work(begin: int) -> None:
        end = min(begin + width, input_dim)
        add_products(places, codes, residual, begin, end, products)

    on_cores(work, range(0, input_dim, width))
    squares = np.bincount(places.ravel(), np.square(codes).ravel(), num_latents)
    uses = np.bincount(places[codes != 0], minlength=num_latents)
    return products, squares.astype(dtype), uses.astype(dtype)


def iterate(
    signals: np.ndarray,
    dictionary: np.ndarray,
    rate: np.ndarray,
    threshold: np.ndarray,
    init: np.ndarray,
    *,
    iterations: int,
) -> np.ndarray:
    """The codes of `fista.fixed` up to rounding, non-negative and with one weight.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents).
      rate: the step, a scalar.
      threshold: the step times the weight, a scalar.
      init: codes to start from, (n, num_latents).
      iterations: number of iterations.
    """
    from sae_gap.loops.proximal import iterate_block

    codes = init.copy()
    momenta = empty(iterations, init.dtype)
    t = 1.0
    for i in range(iterations):
        last = t
        t = 0.5 * (1 + math.sqrt(1 + 4 * t**2))
        momenta[i] = (last - 1) / t
    with one_blas_thread():
        gram = dictionary.T @ dictionary

    def work(rows: slice) -> None:
        pull = signals[rows] @ dictionary
        iterate_block(pull, gram, rate[()], threshold[()], momenta, codes[rows])

    _in_blocks(work, len(codes))
    return codes
