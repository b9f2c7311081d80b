"""CPU loops without certificates, for pursuits and learners: blocks of samples, shared among all
cores.

The problem alone decides which samples share a block, so the bits do not depend on the threads. XLA
compiles and runs nothing here, so its programs may call these functions back. The loops are
imported on first use: Numba takes half a second to load.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from sae_gap.loops.host import read_only
from sae_gap.runtime import on_cores, one_blas_thread
from sae_gap.runtime.cores import cores
from sae_gap.solvers import GROUPS, block, mask, num_blocks

# Samples of a block.
MANY_SAMPLES = 64


def pursue(
    signals: Float[np.ndarray, "n input_dim"],
    atoms: Float[np.ndarray, "num_padded input_dim"],
    threshold: float,
    epsilon: float,
    *,
    num_slots: int,
    num_rounds: int,
) -> tuple[
    Int[np.ndarray, "n slots"], Float[np.ndarray, "n slots"], Float[np.ndarray, "n input_dim"]
]:
    """The places, codes and residual of `reweighted.pursue` at one threshold, up to rounding.

    The non-zero codes of a sample come first.
    """
    from sae_gap.loops import pursuit

    signals, atoms = read_only(signals), read_only(atoms)
    places = np.empty((len(signals), num_slots), np.int32)
    codes, residual = np.empty(places.shape, signals.dtype), np.empty_like(signals)
    eps, whole = float(np.finfo(signals.dtype).eps), np.dtype(f"i{signals.itemsize}")
    blocks = num_blocks(num_slots)
    masks = mask(len(atoms) // blocks), mask(blocks // GROUPS)
    # As in `pivoting.solve`.
    close = eps ** (2 / 3)

    def work(begin: int) -> None:
        own = slice(begin, begin + MANY_SAMPLES)
        pull = np.empty(len(signals[own]) * max(1, block.TILE // blocks) * blocks, signals.dtype)
        given = signals[own], atoms, threshold, epsilon, num_rounds, (blocks, GROUPS), masks
        room = pull, pull.view(whole), places[own], codes[own], residual[own]
        pursuit.pursue_block(*given, close, eps, *room)

    with one_blas_thread():
        on_cores(work, range(0, len(signals), MANY_SAMPLES))
    return places, codes, residual


def sums(
    places: Int[np.ndarray, "n slots"],
    codes: Float[np.ndarray, "n slots"],
    residual: Float[np.ndarray, "n input_dim"],
    num_latents: int,
) -> tuple[
    Float[np.ndarray, "num_latents input_dim"],
    Float[np.ndarray, " num_latents"],
    Float[np.ndarray, " num_latents"],
]:
    """For the result of `pursue`: Zᵀ R, and for each atom the sum of its squared codes and the
    number of its non-zero codes.
    """
    from sae_gap.loops import pursuit

    input_dim, dtype = residual.shape[1], residual.dtype
    products = np.zeros((num_latents, input_dim), dtype)
    # Each thread goes through all samples in order, for its own columns.
    width = -(-input_dim // (cores() if len(codes) > MANY_SAMPLES else 1))

    def work(begin: int) -> None:
        pursuit.add_products(
            places, codes, residual, begin, min(begin + width, input_dim), products
        )

    on_cores(work, range(0, input_dim, width))
    squares = np.bincount(places.ravel(), np.square(codes).ravel(), num_latents)
    return (
        products,
        squares.astype(dtype),
        np.bincount(places[codes != 0], minlength=num_latents).astype(dtype),
    )


def iterate(
    signals: Float[np.ndarray, "n input_dim"],
    dictionary: Float[np.ndarray, "input_dim num_latents"],
    rate: Float[np.ndarray, ""],
    threshold: Float[np.ndarray, ""],
    init: Float[np.ndarray, "n num_latents"],
    *,
    iterations: int,
) -> Float[np.ndarray, "n num_latents"]:
    """The codes of `fista.fixed` up to rounding, non-negative and with one weight; `threshold` is
    the step `rate` times the weight.
    """
    from sae_gap.loops import proximal

    codes, momenta, t = init.copy(), np.empty(iterations, init.dtype), 1.0
    for i in range(iterations):
        last, t = t, 0.5 * (1 + math.sqrt(1 + 4 * t**2))
        momenta[i] = (last - 1) / t

    def work(begin: int) -> None:
        own = slice(begin, begin + MANY_SAMPLES)
        proximal.iterate_block(
            signals[own] @ dictionary, gram, rate[()], threshold[()], momenta, codes[own]
        )

    with one_blas_thread():
        gram = dictionary.T @ dictionary
        on_cores(work, range(0, len(signals), MANY_SAMPLES))
    return codes
