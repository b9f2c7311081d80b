"""The pursuit that learns dictionaries: rounds of candidates, pivots, and reweighted weights."""

# Numba types these loops when it compiles them.
# mypy: ignore-errors

import numpy as np

from sae_gap.loops.routines import Slots, copy, entry, helper, pivot, subtract


@helper
def _product(left, right):
    """The inner product in the type of the vectors; in single precision twice as fast as `dot`."""
    total = left[0] * right[0]
    for i in range(1, left.size):
        total += left[i] * right[i]
    return total


@helper
def _play(pull, bits, limit, first, mask, best):
    """Updates the leaders of blocks with rows of correlations, one from each block; see
    `leaders.leaders`.
    """
    for n in range(pull.size):
        pull[n] = max(pull[n] - limit, 0)
    for begin in range(0, pull.size, best.size):
        row = first + begin // best.size
        for n in range(best.size):
            best[n] = max(best[n], (bits[begin + n] & ~mask) | row)


@helper
def _choose(best, rows, groups, mask, field, candidates):
    """The leading blocks of each group in turn, as in `leaders.leaders`; -1 once no further one
    exceeds its weight.
    """
    for place in range(candidates.size):
        candidates[place] = -1
    for group in range(groups):
        for n in range(field.size):
            field[n] = (best[n * groups + group] & ~mask) | n
        for place in range(group, candidates.size, groups):
            top = field[0]
            for n in range(field.size):
                top = max(top, field[n])
            if top <= mask:
                break
            seat = top & mask
            block = seat * groups + group
            candidates[place] = (best[block] & rows) * best.size + block
            field[seat] = 0


@helper
def _admit(signal, atoms, candidates, latents, linear, inner):
    """Takes the first candidates into free slots, with their products with the signal and all
    slots; returns the end of the slots in use.
    """
    free = np.int64(0)
    top = np.int64(0)
    for w in range(latents.size):
        if latents[w] >= 0:
            top = w + 1
        else:
            free += 1
    place = np.int64(0)
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
                inner[place, w] = inner[w, place] = _product(
                    atoms[latent], atoms[latents[w]]
                )
    return top


@entry
def pursue_block(
    signals,
    atoms,
    limit,
    epsilon,
    rounds,
    blocks,
    masks,
    close,
    eps,
    pull,
    bits,
    places,
    codes,
    residual,
):
    """`reweighted.pursue` for a block of samples at one threshold; non-zero codes come first.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_padded, input_dim)`, from `reweighted.atom_rows`.
      limit: the threshold.
      epsilon: as in `reweighted.pursue`.
      rounds: number of rounds.
      blocks: numbers of blocks and of groups of `leaders.leaders`.
      masks: the bits of the positions of rows, and of seats.
      close: an atom is dependent if at most this share of its energy is outside the span of the
        basis.
      eps: machine epsilon of the signals' type.
      pull: room for n correlations with as many atoms as are correlated at once, which are whole
        rows of the blocks.
      bits: the bits of `pull`.
      places: `(n, slots)`, the result.
      codes: `(n, slots)`, the result.
      residual: `(n, input_dim)`, the result.
    """
    (num_samples, slots) = codes.shape
    num_latents = atoms.shape[0]
    (num_blocks, groups) = blocks
    tile = pull.size // num_samples
    best = np.empty((num_samples, num_blocks), bits.dtype)
    candidates = np.empty(slots // 2, np.int64)
    field = np.empty(num_blocks // groups, bits.dtype)
    latents = np.full((num_samples, slots), -1)
    code = np.zeros((num_samples, slots))
    linear = np.zeros((num_samples, slots))
    inner = np.zeros((num_samples, slots, slots), atoms.dtype)
    basis = np.empty(slots, np.int64)
    inverse = np.empty((slots, slots))
    work = np.empty((6, slots))
    near = work[0]
    weight = work[1]
    on = work[2]
    for i in range(num_samples):
        copy(residual[i], signals[i])
    for _ in range(rounds):
        best[:] = 0
        for first in range(0, num_latents, tile):
            part = atoms[first : first + tile]
            size = num_samples * len(part)
            np.dot(residual, part.T, pull[:size].reshape(num_samples, len(part)))
            for i in range(num_samples):
                own = slice(i * len(part), (i + 1) * len(part))
                _play(
                    pull[own], bits[own], limit, first // num_blocks, masks[0], best[i]
                )
        for i in range(num_samples):
            _choose(best[i], masks[0], groups, masks[1], field, candidates)
            top = _admit(signals[i], atoms, candidates, latents[i], linear[i], inner[i])
            scale = limit
            for w in range(top):
                weight[w] = limit * epsilon / (code[i, w] + epsilon)
                near[w] = linear[i, w]
                code[i, w] = 0
                on[w] = 0
                if latents[i, w] >= 0:
                    scale = max(scale, abs(near[w] - weight[w]))
            floor = 2 * eps * scale
            given = latents[i], near, weight, code[i], on, inner[i], basis, inverse
            pivot(
                Slots(*given, work[3], work[4], work[5]),
                top,
                np.int64(0),
                True,
                floor,
                close,
            )
            copy(residual[i], signals[i])
            used = 0
            for w in range(top):
                if on[w] == 1 and code[i, w] > 0:
                    places[i, used] = latents[i, w]
                    codes[i, used] = code[i, w]
                    subtract(residual[i], codes[i, used], atoms[latents[i, w]])
                    used += 1
                else:
                    latents[i, w] = -1
                    code[i, w] = 0
            places[i, used:] = 0
            codes[i, used:] = 0


@entry
def add_products(places, codes, residual, begin, end, gradient):
    """Adds the columns from `begin` to `end` of Zᵀ R, with the codes Z of `pursue_block` and the
    residuals R.
    """
    for i in range(len(codes)):
        rest = residual[i, begin:end]
        for w in range(codes.shape[1]):
            if codes[i, w] == 0:
                break
            subtract(gradient[places[i, w], begin:end], -codes[i, w], rest)
