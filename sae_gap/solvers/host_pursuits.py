"""CPU loops without certificates, for pursuits and learners: blocks of samples, shared among all
cores.

The problem alone decides which samples share a block, so the bits do not depend on the threads. XLA
compiles and runs nothing here, so its programs may call these functions back. The loops are
imported on first use: Numba takes half a second to load.
"""

import math

import numpy as np

from sae_gap.core import slices
from sae_gap.loops import block
from sae_gap.loops.host import read_only
from sae_gap.runtime import on_cores, one_blas_thread
from sae_gap.runtime.cores import cores
from sae_gap.solvers import GROUPS, mask, num_blocks

# Samples of a block.
MANY_SAMPLES = 64


def pursue(
    signals, atoms, threshold, epsilon, *, num_slots, num_rounds
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The result of `reweighted.pursue` at one threshold, up to rounding.

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
    from sae_gap.loops import pursuit

    signals = read_only(signals)
    atoms = read_only(atoms)
    places = np.empty((len(signals), num_slots), np.int32)
    codes = np.empty(places.shape, signals.dtype)
    residual = np.empty_like(signals)
    eps = float(np.finfo(signals.dtype).eps)
    whole = np.dtype(f"i{signals.itemsize}")
    blocks = num_blocks(num_slots)
    masks = mask(len(atoms) // blocks), mask(blocks // GROUPS)
    # As in `pivoting.solve`.
    options = num_rounds, (blocks, GROUPS), masks, eps ** (2 / 3), eps

    def work(own):
        pull = np.empty(
            len(signals[own]) * max(1, block.TILE // blocks) * blocks, signals.dtype
        )
        pursuit.pursue_block(
            signals[own],
            atoms,
            threshold,
            epsilon,
            *options,
            pull,
            pull.view(whole),
            places[own],
            codes[own],
            residual[own],
        )

    _in_blocks(work, len(signals))
    return places, codes, residual


def _in_blocks(work, count):
    with one_blas_thread():
        on_cores(work, slices(count, MANY_SAMPLES))


def sums(places, codes, residual, num_latents):
    """For the result of `pursue`: Zᵀ R, (num_latents, input_dim), and for each atom the sum of its
    squared codes and the number of its non-zero codes.
    """
    from sae_gap.loops import pursuit

    input_dim = residual.shape[1]
    dtype = residual.dtype
    products = np.zeros((num_latents, input_dim), dtype)
    # Each thread goes through all samples in order, for its own columns.
    width = -(-input_dim // (cores() if len(codes) > MANY_SAMPLES else 1))

    def work(begin):
        end = min(begin + width, input_dim)
        pursuit.add_products(places, codes, residual, begin, end, products)

    on_cores(work, range(0, input_dim, width))
    squares = np.bincount(places.ravel(), np.square(codes).ravel(), num_latents)
    uses = np.bincount(places[codes != 0], minlength=num_latents)
    return products, squares.astype(dtype), uses.astype(dtype)


def iterate(signals, dictionary, rate, threshold, init, *, iterations):
    """The codes of `fista.fixed` up to rounding, non-negative and with one weight.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents).
      rate: the step, a scalar.
      threshold: the step times the weight, a scalar.
      init: codes to start from, (n, num_latents).
      iterations: number of iterations.
    """
    from sae_gap.loops import proximal

    codes = init.copy()
    momenta = np.empty(iterations, init.dtype)
    t = 1.0
    for i in range(iterations):
        last = t
        t = 0.5 * (1 + math.sqrt(1 + 4 * t**2))
        momenta[i] = (last - 1) / t
    with one_blas_thread():
        gram = dictionary.T @ dictionary
    options = rate[()], threshold[()], momenta

    def work(own):
        proximal.iterate_block(signals[own] @ dictionary, gram, *options, codes[own])

    _in_blocks(work, len(codes))
    return codes
