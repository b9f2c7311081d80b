"""The reweighted lasso that learns dictionaries: rounds of candidates, pivots, and new weights."""

# Numba types these loops when it compiles them.
# mypy: ignore-errors

import numpy as np
from numpy import empty, int32, int64, zeros

from sae_gap.loops.routines import (
    Slots,
    copy,
    entry,
    first_largest,
    helper,
    pivot,
    subtract,
)


@helper
def _product(left: np.ndarray, right: np.ndarray) -> float:
    """The inner product in the type of the vectors; in single precision twice as fast as `dot`."""
    total = left[0] * right[0]
    for i in range(1, left.size):
        total += left[i] * right[i]
    return total


@helper
def _update_leaders(
    pull: np.ndarray, first: int, best: np.ndarray, rows: np.ndarray
) -> None:
    """Updates the largest correlation of each block of atoms, and the row that has it, with rows of
    correlations, one from each block.
    """
    row = int32(first)
    for begin in range(0, pull.size, best.size):
        for n in range(best.size):
            value = pull[begin + n]
            # Without a branch this takes few instructions for many atoms.
            above = value > best[n]
            best[n] = value if above else best[n]
            rows[n] = row if above else rows[n]
        row += int32(1)


@helper
def _choose(
    best: np.ndarray, rows: np.ndarray, limit: float, candidates: np.ndarray
) -> None:
    """The leaders of the blocks, the largest first; -1 once no further one exceeds the limit."""
    candidates[:] = -1
    for place in range(candidates.size):
        block = first_largest(best)
        if not best[block] > limit:
            break
        candidates[place] = rows[block] * best.size + block
        best[block] = limit


@helper
def _admit(
    signal: np.ndarray,
    atoms: np.ndarray,
    candidates: np.ndarray,
    latents: np.ndarray,
    linear: np.ndarray,
    inner: np.ndarray,
) -> int:
    """Takes the first candidates into free slots, with their products with the signal and all
    slots; returns the end of the slots in use.
    """
    free = int64(0)
    top = int64(0)
    for w in range(latents.size):
        if latents[w] >= 0:
            top = w + 1
        else:
            free += 1
    place = int64(0)
    for latent in candidates[:free]:
        held = latent < 0
        for w in range(top):
            held = held or latents[w] == latent
        if held:
            continue
        while latents[place] >= 0:
            place += 1
        top = max(top, place + 1)
        latents[place] = latent
        linear[place] = _product(signal, atoms[latent])
        for w in range(top):
            if latents[w] >= 0:
                value = _product(atoms[latent], atoms[latents[w]])
                inner[place, w] = value
                inner[w, place] = value
    return top


@helper
def _store(
    signal: np.ndarray,
    atoms: np.ndarray,
    latents: np.ndarray,
    code: np.ndarray,
    places: np.ndarray,
    codes: np.ndarray,
    residual: np.ndarray,
) -> None:
    """Stores the non-zero codes and their residual, and frees all other slots."""
    copy(residual, signal)
    used = 0
    for w in range(code.size):
        if latents[w] >= 0 and code[w] > 0:
            places[used] = latents[w]
            codes[used] = code[w]
            subtract(residual, codes[used], atoms[latents[w]])
            used += 1
        else:
            latents[w] = -1
            code[w] = 0
    places[used:] = 0
    codes[used:] = 0


@entry
def code_block(
    signals: np.ndarray,
    atoms: np.ndarray,
    limit: float,
    epsilon: float,
    rounds: int,
    blocks: int,
    close: float,
    eps: float,
    pull: np.ndarray,
    places: np.ndarray,
    codes: np.ndarray,
    residual: np.ndarray,
) -> None:
    """`reweighted.reweighted_lasso` for a block of samples; non-zero codes come first.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_padded, input_dim)`, from `reweighted.atom_rows`.
      limit: the threshold.
      epsilon: as in `reweighted.reweighted_lasso`.
      rounds: number of rounds.
      blocks: number of blocks of atoms.
      close: an atom is dependent if at most this share of its energy is outside the span of the
        basis.
      eps: machine epsilon of the signals' type.
      pull: room for n correlations with as many atoms as are correlated at once, which are whole
        rows of the blocks.
      places: `(n, slots)`, the result.
      codes: `(n, slots)`, the result.
      residual: `(n, input_dim)`, the result.
    """
    (num_samples, slots) = codes.shape
    tile = pull.size // num_samples
    best = empty((num_samples, blocks), atoms.dtype)
    rows = zeros((num_samples, blocks), int32)
    candidates = empty(slots // 2, int64)
    latents = np.full((num_samples, slots), -1)
    code = zeros((num_samples, slots))
    linear = zeros((num_samples, slots))
    inner = zeros((num_samples, slots, slots), atoms.dtype)
    basis = empty(slots, int64)
    inverse = empty((slots, slots))
    work = empty((6, slots))
    near = work[0]
    weight = work[1]
    sign = work[2]
    for i in range(num_samples):
        copy(residual[i], signals[i])
    for _ in range(rounds):
        best[:] = limit
        for first in range(0, len(atoms), tile):
            part = atoms[first : first + tile]
            size = num_samples * len(part)
            product = pull[:size].reshape(num_samples, len(part))
            np.dot(residual, part.T, product)
            for i in range(num_samples):
                _update_leaders(product[i], first // blocks, best[i], rows[i])
        for i in range(num_samples):
            _choose(best[i], rows[i], atoms.dtype.type(limit), candidates)
            top = _admit(signals[i], atoms, candidates, latents[i], linear[i], inner[i])
            scale = limit
            for w in range(top):
                weight[w] = limit * epsilon / (code[i, w] + epsilon)
                near[w] = linear[i, w]
                code[i, w] = 0
                sign[w] = 0
                if latents[i, w] >= 0:
                    scale = max(scale, abs(near[w] - weight[w]))
            sample = Slots(
                latents=latents[i],
                pull=near,
                weight=weight,
                code=code[i],
                sign=sign,
                inner=inner[i],
                basis=basis,
                inverse=inverse,
                spare=work[3],
                cross=work[4],
                slope=work[5],
            )
            pivot(sample, top, int64(0), True, 2 * eps * scale, close)
            for w in range(top):
                # Outside the basis a code is rounding alone.
                code[i, w] *= sign[w] == 1
            _store(
                signals[i], atoms, latents[i], code[i], places[i], codes[i], residual[i]
            )


@entry
def add_products(
    places: np.ndarray,
    codes: np.ndarray,
    residual: np.ndarray,
    begin: int,
    end: int,
    gradient: np.ndarray,
) -> None:
    """Adds the columns from `begin` to `end` of Zᵀ R, with the codes Z of `code_block` and the
    residuals R.
    """
    for i in range(len(codes)):
        rest = residual[i, begin:end]
        for w in range(codes.shape[1]):
            if codes[i, w] == 0:
                break
            subtract(gradient[places[i, w], begin:end], -codes[i, w], rest)
