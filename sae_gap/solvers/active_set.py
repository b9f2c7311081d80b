"""The compiled loops of a CPU: each sample of a block is solved exactly on a working set of its own.

`README.md` in this folder has the mathematics. `host` calls four functions: `code_block`, the certified coder; `pursue_block`
and `add_products`, the pursuit that learns dictionaries; and `match_block`, orthogonal matching pursuit. The coder works in
double precision but for products with all atoms, which tell those that may exceed their weight from those that cannot. The
pursuits, which certify nothing, have correlations in the precision of the signals.

Numba compiles the four and keeps them in its cache, which it renews when this file changes and not when another one does. So
whatever they call stands here, and sizes and settings of other files come as arguments. Nothing allocates within a loop, or
takes Python's lock.
"""

import functools
from typing import Any, no_type_check

import numba
import numpy as np

from sae_gap.solvers.keeping import kept

# Fewest violators that enter in a round; one more for so many numbers of the dictionary, as products then take longer.
FEWEST = 4
NUMBERS = 2**20
# Products after which a sample is left as it is.
ROUNDS = 500
# Share of an atom's energy outside the span of the basis below which it counts as dependent.
DEPENDENT = 1e-11
# The same in `match_block`, whose inverse is never refined.
IN_SPAN = 1e-7
# Share of the signal's norm below which the excess of a correlation is rounding.
ROUNDING = 64 * np.finfo(np.float64).eps
# Share of the signal's norm that a correlation in the basis may be off by before the basis is built anew.
LOST = 1e-7
# The inner product of two vectors of n numbers, rounded to single precision and taken in it, is off by at most (n + 2) / 2
# times this share of their norms, and that of an atom is below 1.6; what underflows adds less than `TINY`.
COARSE, TINY = 2.0**-23, 2.0**-100
# Refinements of the codes of a basis in a round.
REFINEMENTS = 5
# Correlations that are brought up to date at once, in cache, and that are looked through together for a larger one.
TILE, CHUNK = 2048, 32

# What a sample is: under way, ready for exact products, certified, out of slots, as good as rounding allows, out of rounds.
OPEN, READY, DONE, FULL, SETTLED, STUCK = range(6)

# Sums may be reordered, but a NaN stays one.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
# What allocates nothing need not count who refers to an array, which would take a third of its time.
_INNER: dict[str, Any] = _OPTIONS | {"_nrt": False}


_kept = functools.partial(kept, **_OPTIONS)


@numba.njit(**_INNER)
@no_type_check
def _dot(left, right):
    total = 0.0
    for i in range(left.size):
        total += left[i] * right[i]
    return total


@numba.njit(**_INNER)
@no_type_check
def _subtract(total, factor, atom):
    for i in range(total.size):
        total[i] -= factor * atom[i]


@numba.njit(**_INNER)
@no_type_check
def _copy(target, source):
    for i in range(target.size):
        target[i] = source[i]


@numba.njit(**_INNER)
@no_type_check
def _steep(pull, nonneg):
    return np.float64(pull) if nonneg else abs(np.float64(pull))


@numba.njit(**_INNER)
@no_type_check
def _least(values, count):
    place = 0
    for n in range(1, count):
        if values[n] < values[place]:
            place = n
    return place


@numba.njit(**_INNER)
@no_type_check
def _collect(problem, block, room, i, pull, begin, most, most_close):
    """Merge the atoms of a tile that exceed their weight, or might by the bound on rounding, with those of the tiles before.

    The `most` that exceed it by most lead. All are noted as close, until there are more than `most_close`; from then on only
    leaders are looked for, as the sample is not certified in this round. Up to there the scale is the largest that may be
    feasible, and the exact one if the bound is zero.
    """
    nonneg, row, column, bound = problem.nonneg, block.row[i], block.column[i % block.column.shape[0], begin:], room.bound[i]
    leaders, leads, count = room.leaders[i], room.leads[i], room.num_leaders[i]
    close, num_close, scale, passed = room.close[i], room.num_close[i], room.scale[i], room.passed
    low, place, chunk = -bound, 0, passed.size
    if count == most:
        place = _least(leads, most)
        low = leads[place]
    for start in range(0, pull.size, chunk):
        part, weight = pull[start : start + chunk], column[start : start + chunk]
        level = low if num_close > most_close else -bound
        # Without a branch this is a few instructions for many atoms.
        above = np.int64(0)
        for j in range(part.size):
            above += np.int64(1) if _steep(part[j], nonneg) - row * weight[j] > level else np.int64(0)
        if above == 0:
            continue
        above = np.int64(0)
        for j in range(part.size):
            passed[above] = j
            above += np.int64(1) if _steep(part[j], nonneg) - row * weight[j] > level else np.int64(0)
        for n in range(above):
            j = passed[n]
            steep, limit, latent = _steep(part[j], nonneg), row * weight[j], begin + start + j
            lead = steep - limit
            if num_close < close.size:
                close[num_close] = latent
            num_close += 1
            if scale * (steep - bound) > limit:
                scale = limit / (steep - bound)
            if count < most:
                leads[count], leaders[count] = lead, latent
                count += 1
            elif lead > low:
                leads[place], leaders[place] = lead, latent
            else:
                continue
            if count == most:
                place = _least(leads, most)
                low = leads[place]
    room.num_leaders[i], room.num_close[i], room.scale[i] = count, num_close, scale


@numba.njit(**_INNER)
@no_type_check
def _fill(atoms, gram, latents, top, slot, atom, inner):
    """The inner products of the atom in a slot with those in all others."""
    latent = latents[slot]
    if gram.size == 0:
        _copy(atom, atoms[latent])
    for other in range(top):
        if latents[other] >= 0:
            value = gram[latent, latents[other]] if gram.size else _dot(atom, atoms[latents[other]])
            inner[slot, other] = inner[other, slot] = value


@numba.njit(**_INNER)
@no_type_check
def _border(inverse, slope, left, size):
    """The inverse with one more atom in the basis: `slope` times the others, and `left` of its energy outside their span."""
    for b in range(size):
        _subtract(inverse[b, :size], -slope[b] / left, slope[:size])
        inverse[b, size] = inverse[size, b] = -slope[b] / left
    inverse[size, size] = 1 / left


@numba.njit(**_INNER)
@no_type_check
def _drop(inverse, basis, size, out):
    """The inverse without one place of the basis, which the last one takes."""
    last, scale = size - 1, 1 / inverse[out, out]
    for b in range(size):
        if b != out:
            _subtract(inverse[b, :size], inverse[b, out] * scale, inverse[out, :size])
    if out != last:
        basis[out] = basis[last]
        for b in range(last):
            inverse[out, b] = inverse[last, b]
            inverse[b, out] = inverse[b, last]
        inverse[out, out] = inverse[last, last]
    return last


@numba.njit(**_INNER)
@no_type_check
def _pivot(nonneg, floor, close, top, latents, pull, weight, code, sign, inner, basis, inverse, size, moved, cross, slope):
    """Solve the lasso on the slots from the basis at hand; returns its size, and how many atoms entered it.

    Only correlations of slots outside the basis are kept: those of the basis equal their weights. An atom depends on those of
    the basis where at most the share `close` of its energy is outside their span.
    """
    entered = 0
    while entered < 4 * latents.size:
        # The atom outside the basis that most exceeds its weight.
        best, excess = -1, floor
        for w in range(top):
            if latents[w] >= 0 and sign[w] == 0:
                above = (pull[w] if nonneg else abs(pull[w])) - weight[w]
                if above > excess:
                    best, excess = w, above
        if best < 0:
            break
        way = 1.0 if nonneg or pull[best] > 0 else -1.0
        for b in range(size):
            cross[b] = inner[best, basis[b]]
        for b in range(size):
            slope[b] = _dot(inverse[b, :size], cross[:size])
        left = inner[best, best] - _dot(cross[:size], slope[:size])
        for w in range(top):
            moved[w] = 0
        while True:
            # How far until its correlation meets its weight, or a code of the basis vanishes.
            step, out = np.inf, np.int64(-1)
            if left > close * inner[best, best]:
                step = max(excess, 0.0) / left
            for b in range(size):
                fall = way * slope[b] * sign[basis[b]]
                if fall > 0:
                    until = abs(code[basis[b]]) / fall
                    if until < step:
                        step, out = until, b
            if not step < np.inf:
                break
            for b in range(size):
                change = -way * step * slope[b]
                code[basis[b]] += change
                moved[basis[b]] += change
            code[best] += way * step
            moved[best] += way * step
            excess -= left * step
            if out < 0:
                break
            gone = basis[out]
            moved[gone] -= code[gone]
            # So it was at the beginning of the pivot.
            pull[gone] = sign[gone] * weight[gone]
            code[gone], sign[gone] = 0, 0
            ratio = slope[out] / inverse[out, out]
            left += slope[out] * ratio
            for b in range(size):
                if b != out:
                    slope[b] -= inverse[b, out] * ratio
            size = _drop(inverse, basis, size, out)
            slope[out] = slope[size]
        if not step < np.inf:
            # Within the span of the basis and with nothing to take the place of: only rounding wants it.
            moved[best], code[best], sign[best] = 0, 0, 2
        for w in range(top):
            if latents[w] >= 0 and sign[w] == 0:
                pull[w] -= _dot(moved[:top], inner[w, :top])
        if sign[best] == 2:
            continue
        _border(inverse, slope, left, size)
        basis[size], sign[best] = best, way
        size += 1
        entered += 1
    return size, entered


@numba.njit(**_INNER)
@no_type_check
def _refine(enough, atoms, latents, weight, code, sign, basis, inverse, size, theta, wrong):
    """Newton steps for the codes of the basis, by fresh correlations; returns its size and how far these were off at last.

    Steps end where correlations are off by `enough`, or no longer halve.
    """
    worst = np.inf
    for _ in range(REFINEMENTS):
        before, worst = worst, 0.0
        for b in range(size):
            w = basis[b]
            wrong[b] = _dot(theta, atoms[latents[w]]) - weight[w] * sign[w]
            # A NaN must stay.
            worst = worst if abs(wrong[b]) <= worst else abs(wrong[b])
        if worst <= enough or not worst <= 0.5 * before:
            break
        gone = False
        for b in range(size):
            w = basis[b]
            fix = _dot(inverse[b, :size], wrong[:size])
            if (code[w] + fix) * sign[w] <= 0:
                fix, gone = -code[w], True
            code[w] += fix
            _subtract(theta, fix, atoms[latents[w]])
        if gone:
            for b in range(size - 1, -1, -1):
                w = basis[b]
                if code[w] * sign[w] <= 0:
                    code[w], sign[w] = 0, 0
                    size = _drop(inverse, basis, size, b)
    return size, worst


@numba.njit(**_INNER)
@no_type_check
def _advance(problem, block, room, i, every, candidates):
    """Take violators into free slots, solve on the slots, and leave the codes and their residual there.

    Returns how many atoms entered the basis, and whether a candidate found no slot.
    """
    atoms, nonneg, signal, theta = problem.atoms, problem.nonneg, block.signals[i], room.theta[i]
    row, column = block.row[i], block.column[i % block.column.shape[0]]
    latents, code, sign, inner = room.latents[i], room.code[i], room.sign[i], room.inner[i]
    basis, inverse, size = room.basis[i], room.inverse[i], room.size[i]
    work = room.work
    pull, weight, moved, cross, slope = work[0], work[1], work[2], work[3], work[4]
    norm = np.sqrt(_dot(signal, signal))
    floor = ROUNDING * norm
    # A plain 0 would have functions compiled for that literal.
    full, free, top = False, 0, np.int64(0)
    for b in range(size):
        w = basis[b]
        top = max(top, w + 1)
        weight[w] = row * column[latents[w]]
        pull[w] = sign[w] * weight[w]
    for n in range(candidates.size):
        latent = candidates[n]
        held = latent < 0
        for b in range(size):
            held = held or latents[basis[b]] == latent
        if held:
            continue
        while free < latents.size and latents[free] >= 0:
            free += 1
        if free == latents.size:
            full = True
            break
        value, limit = _dot(theta, atoms[latent]), row * column[latent]
        if not every and (value if nonneg else abs(value)) - limit <= floor:
            continue
        top = max(top, free + 1)
        latents[free], pull[free], weight[free], code[free], sign[free] = latent, value, limit, 0, 0
        _fill(atoms, problem.gram, latents, top, free, room.atom, inner)
    total = 0
    for _ in range(2):
        size, entered = _pivot(
            nonneg, floor, DEPENDENT, top, latents, pull, weight, code, sign, inner, basis, inverse, size, moved, cross, slope
        )
        total += entered
        _copy(theta, signal)
        for b in range(size):
            _subtract(theta, code[basis[b]], atoms[latents[basis[b]]])
        # Where nothing enters, better values are all that can still certify the codes.
        enough = (0.1 if entered else 0.001) * floor
        size, worst = _refine(enough, atoms, latents, weight, code, sign, basis, inverse, size, theta, cross)
        if worst <= LOST * norm:
            break
        # The inverse is lost to rounding.
        size, total = 0, 0
        _copy(theta, signal)
        for w in range(top):
            if latents[w] >= 0:
                code[w], sign[w], pull[w] = 0, 0, _dot(signal, atoms[latents[w]])
    for w in range(top):
        if abs(sign[w]) != 1:
            latents[w], sign[w] = -1, 0
    room.size[i] = size
    return total, full


@numba.njit(**_INNER)
@no_type_check
def _certify(problem, block, room, i):
    """Write down the rounded codes, their objective, and their duality gap at the scaled residual before rounding."""
    atoms, signal, theta, rest = problem.atoms, block.signals[i], room.theta[i], room.atom
    row, column, scale = block.row[i], block.column[i % block.column.shape[0]], room.scale[i]
    found, values, latents, basis, size = block.found[i], block.values[i], room.latents[i], room.basis[i], room.size[i]
    _copy(rest, signal)
    linear, slack = 0.0, 0.0
    for b in range(size):
        latent = latents[basis[b]]
        found[b], values[b] = latent, room.code[i, basis[b]]
        value, limit = np.float64(values[b]), row * column[latent]
        _subtract(rest, value, atoms[latent])
        pull = _dot(theta, atoms[latent]) * (1.0 if value > 0 else -1.0)
        linear += limit * abs(value)
        slack += abs(value) * max(limit - scale * pull, 0.0)
    for b in range(size, found.size):
        found[b], values[b] = -1, 0
    objective = 0.5 * _dot(rest, rest) + linear
    _subtract(rest, scale, theta)
    gap = 0.5 * _dot(rest, rest) + slack
    block.objective[i], block.gap[i] = objective, gap
    # An objective below this cannot be told from zero; see `lasso_problem.is_converged`.
    least = 0.5 * (16 * problem.eps) ** 2 * _dot(signal, signal)
    # A little less than the tolerance, for the gap to meet it when both are rounded.
    return (gap <= 0.999 * problem.tol * objective and objective < np.inf) or objective <= least


@numba.njit(**_INNER)
@no_type_check
def _nearly(problem, block, room, i):
    """Whether the gap may be met at the scale, by coarse correlations: those of the basis equal their weights."""
    theta, column, linear = room.theta[i], block.column[i % block.column.shape[0]], 0.0
    for b in range(room.size[i]):
        w = room.basis[i, b]
        linear += block.row[i] * column[room.latents[i, w]] * abs(room.code[i, w])
    energy, short = 0.5 * _dot(theta, theta), 1 - room.scale[i]
    return short**2 * energy + short * linear <= 0.25 * problem.tol * (energy + linear)


@numba.njit(**_INNER)
@no_type_check
def _rescale(problem, block, room, i):
    """The scale of all atoms, from exact correlations of those that are close: no other one exceeds its weight."""
    theta, row, column, scale = room.theta[i], block.row[i], block.column[i % block.column.shape[0]], 1.0
    for n in range(room.num_close[i]):
        latent = room.close[i, n]
        steep, limit = _steep(_dot(theta, problem.atoms[latent]), problem.nonneg), row * column[latent]
        if steep > limit:
            scale = min(scale, limit / steep)
    room.scale[i] = scale


@_kept
@no_type_check
def code_block(problem, block, room):
    """Code a block of samples."""
    num_samples, slots, num_latents = block.signals.shape[0], block.found.shape[1], problem.atoms.shape[0]
    tile, state = room.exact.shape[0], block.state
    few = min(room.leaders.shape[1], FEWEST + problem.atoms.size // NUMBERS)
    who = room.who
    for i in range(num_samples):
        room.size[i] = 0
        room.latents[i, :] = -1
        _copy(room.theta[i], block.signals[i])
    # Pivots on the atoms to begin with; rounds of coarse products; rounds of exact ones for what these could not settle.
    for stage in range(3):
        while True:
            active = 0
            for i in range(num_samples):
                if stage == 1 and state[i] == OPEN and block.rounds[i] >= problem.limit - 1:
                    state[i] = READY
                if state[i] == OPEN:
                    who[active], room.num_leaders[i], room.num_close[i], room.scale[i] = i, 0, 0, 1.0
                    room.bound[i] = 0.0
                    if stage == 1:
                        theta = room.theta[i]
                        _copy(room.coarse_theta[active], theta)
                        room.bound[i] = COARSE * (theta.size + 4) * np.sqrt(_dot(theta, theta)) + TINY
                    elif stage == 2:
                        _copy(room.exact_theta[active], room.theta[i])
                    active += 1
            if active == 0 or (stage == 0 and block.begun.shape[1] == 0):
                break
            for begin in range(0, num_latents if stage else 0, tile):
                # The last tile overlaps the one before.
                first = min(begin, num_latents - tile)
                if stage == 1:
                    np.dot(room.coarse_theta[:active], problem.coarse[first : first + tile].T, room.coarse_pull[:active])
                else:
                    for j in range(tile):
                        _copy(room.exact[j], problem.atoms[first + j])
                    np.dot(room.exact_theta[:active], room.exact.T, room.exact_pull[:active])
                for n in range(active):
                    i = who[n]
                    most, most_close = min(room.leaders.shape[1], max(few, room.size[i] // 2)), room.size[i] + 2 * few
                    if stage == 1:
                        _collect(problem, block, room, i, room.coarse_pull[n, begin - first :], begin, most, most_close)
                    else:
                        _collect(problem, block, room, i, room.exact_pull[n, begin - first :], begin, most, num_latents)
            for n in range(active):
                i = who[n]
                block.rounds[i] += stage > 0
                ripe = stage == 2
                if stage == 1 and room.num_close[i] <= room.size[i] + 2 * few and _nearly(problem, block, room, i):
                    _rescale(problem, block, room, i)
                    ripe = True
                if ripe and _certify(problem, block, room, i):
                    state[i] = DONE
                elif stage == 1 and block.rounds[i] >= ROUNDS:
                    state[i] = READY
                elif stage == 2 and block.rounds[i] >= min(problem.limit, ROUNDS):
                    state[i] = STUCK
                else:
                    candidates = room.leaders[i, : room.num_leaders[i]] if stage else block.begun[i]
                    entered, full = _advance(problem, block, room, i, stage == 0, candidates)
                    if stage == 0:
                        state[i] = READY
                    elif full and room.size[i] > slots - FEWEST:
                        state[i] = FULL
                        _copy(block.found[i], room.latents[i])
                    elif entered == 0:
                        state[i] = SETTLED if stage == 2 else READY
        for i in range(num_samples):
            if state[i] == READY:
                state[i] = OPEN


@numba.njit(**_INNER)
@no_type_check
def _product(left, right):
    """The inner product in the type of the vectors, in single precision at twice the speed of `_dot`."""
    total = left[0] * right[0]
    for i in range(1, left.size):
        total += left[i] * right[i]
    return total


@numba.njit(**_INNER)
@no_type_check
def _play(pull, bits, limit, nonneg, first, mask, best):
    """Let rows of correlations, one of each block, play for the lead of their blocks; see `atoms.leaders`."""
    for n in range(pull.size):
        steep = pull[n] if nonneg else abs(pull[n])
        pull[n] = max(steep - limit, 0)
    for begin in range(0, pull.size, best.size):
        row = first + begin // best.size
        for n in range(best.size):
            best[n] = max(best[n], (bits[begin + n] & ~mask) | row)


@numba.njit(**_INNER)
@no_type_check
def _choose(best, rows, groups, mask, field, candidates):
    """The leading blocks of each group by turns, as `atoms.leaders` has them; -1 where no further one exceeds its weight."""
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
            candidates[place], field[seat] = (best[block] & rows) * best.size + block, 0


@numba.njit(**_INNER)
@no_type_check
def _admit(signal, rest, atoms, candidates, nonneg, latents, sign, linear, inner):
    """Take the first candidates into free slots, with their products with the signal and all slots; returns where slots end."""
    free, top = np.int64(0), np.int64(0)
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
        latents[place], sign[place] = latent, 1
        if not nonneg and _product(rest, atoms[latent]) < 0:
            sign[place] = -1
        linear[place] = sign[place] * _product(signal, atoms[latent])
        for w in range(top):
            if latents[w] >= 0:
                value = sign[place] * sign[w] * _product(atoms[latent], atoms[latents[w]])
                inner[place, w] = inner[w, place] = value
    return top


@_kept
@no_type_check
def pursue_block(
    signals, atoms, limit, epsilon, rounds, nonneg, blocks, masks, close, eps, pull, bits, places, codes, residual
):
    """`reweighted.pursue` for a block of samples at one threshold; the codes that are not zero come first.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_padded, input_dim)`, from `reweighted.atom_rows`.
      limit: the threshold.
      epsilon: that of `reweighted.pursue`.
      rounds: how many.
      nonneg: whether codes are constrained to be non-negative.
      blocks: how many blocks and how many groups `atoms.leaders` has.
      masks: the bits of the positions of rows, and of seats.
      close: share of an atom's energy outside the span of the basis up to which it counts as dependent.
      eps: of the type of the signals.
      pull: room for n correlations with as many atoms as are correlated at once, which are whole rows of the blocks.
      bits: the bits of `pull`.
      places: `(n, slots)`, to be filled.
      codes: `(n, slots)`, to be filled.
      residual: `(n, input_dim)`, to be filled.
    """
    (num_samples, slots), num_latents, (num_blocks, groups) = codes.shape, atoms.shape[0], blocks
    tile = pull.size // num_samples
    best, candidates = np.empty((num_samples, num_blocks), bits.dtype), np.empty(slots // 2, np.int64)
    field = np.empty(num_blocks // groups, bits.dtype)
    latents, code, sign = np.full((num_samples, slots), -1), np.zeros((num_samples, slots)), np.ones((num_samples, slots))
    linear, inner = np.zeros((num_samples, slots)), np.zeros((num_samples, slots, slots), atoms.dtype)
    basis, on, inverse, work = np.empty(slots, np.int64), np.empty(slots), np.empty((slots, slots)), np.empty((5, slots))
    near, weight, moved, cross, slope = work[0], work[1], work[2], work[3], work[4]
    residual[:] = signals
    for _ in range(rounds):
        best[:] = 0
        for first in range(0, num_latents, tile):
            part = atoms[first : first + tile]
            size = num_samples * len(part)
            np.dot(residual, part.T, pull[:size].reshape(num_samples, len(part)))
            for i in range(num_samples):
                own = slice(i * len(part), (i + 1) * len(part))
                _play(pull[own], bits[own], limit, nonneg, first // num_blocks, masks[0], best[i])
        for i in range(num_samples):
            _choose(best[i], masks[0], groups, masks[1], field, candidates)
            top = _admit(signals[i], residual[i], atoms, candidates, nonneg, latents[i], sign[i], linear[i], inner[i])
            scale = limit
            for w in range(top):
                weight[w], near[w] = limit * epsilon / (code[i, w] + epsilon), linear[i, w]
                code[i, w], on[w] = 0, 0
                if latents[i, w] >= 0:
                    scale = max(scale, abs(near[w] - weight[w]))
            floor = 2 * eps * scale
            size, _ = _pivot(
                True, floor, close, top, latents[i], near, weight, code[i], on, inner[i], basis, inverse, 0, moved, cross, slope
            )
            _copy(residual[i], signals[i])
            used = 0
            for w in range(top):
                if on[w] == 1 and code[i, w] > 0:
                    places[i, used], codes[i, used] = latents[i, w], sign[i, w] * code[i, w]
                    _subtract(residual[i], codes[i, used], atoms[latents[i, w]])
                    used += 1
                else:
                    latents[i, w], code[i, w] = -1, 0
            places[i, used:], codes[i, used:] = 0, 0


@_kept
@no_type_check
def add_products(places, codes, residual, begin, end, gradient):
    """Add the columns from `begin` to `end` of Zᵀ R, with the codes Z of `pursue_block` and the residuals R."""
    for i in range(len(codes)):
        rest = residual[i, begin:end]
        for w in range(codes.shape[1]):
            if codes[i, w] == 0:
                break
            _subtract(gradient[places[i, w], begin:end], -codes[i, w], rest)


@numba.njit(**_INNER)
@no_type_check
def _first(scores):
    """The place of the largest score, the first of equal ones."""
    place = np.int64(0)
    for start in range(0, scores.size, CHUNK):
        part = scores[start : start + CHUNK]
        # Without a branch this is a few instructions for many atoms.
        above = np.int64(0)
        for j in range(part.size):
            above += np.int64(1) if part[j] > scores[place] else np.int64(0)
        for j in range(part.size if above else 0):
            if part[j] > scores[place]:
                place = start + j
    return place


@_kept
@no_type_check
def match_block(signals, atoms, gram, pull, nonneg, chosen, codes):
    """`greedy.orthogonal_matching_pursuit` for a block of samples.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, of unit norm or zero.
      gram: `(num_latents, num_latents)` inner products of the atoms.
      pull: `(n, num_latents)` correlations of the signals.
      nonneg: whether each step takes the atom of largest correlation, and not of largest |correlation|.
      chosen: `(n, num_atoms)` the atoms in the order of their choice, to be filled.
      codes: `(n, num_atoms)` their codes, to be filled.
    """
    (num_samples, num_atoms), num_latents = chosen.shape, len(atoms)
    score, places, code = np.empty(num_latents, pull.dtype), np.empty(num_atoms, np.int64), np.empty(num_atoms)
    inverse, cross, slope = np.empty((num_atoms, num_atoms)), np.empty(num_atoms), np.empty(num_atoms)
    # Products of the chosen atoms are taken in double precision.
    atom = np.empty(atoms.shape[1])
    for i in range(num_samples):
        size = np.int64(0)
        for step in range(num_atoms):
            for begin in range(0, num_latents, TILE):
                end = min(begin + TILE, num_latents)
                part = score[begin:end]
                _copy(part, pull[i, begin:end])
                # Two atoms at once, since the sum is read and written again for each.
                for b in range(1, size, 2):
                    one, two = places[b - 1], places[b]
                    one_row, two_row = gram[chosen[i, one], begin:end], gram[chosen[i, two], begin:end]
                    for j in range(part.size):
                        part[j] -= codes[i, one] * one_row[j] + codes[i, two] * two_row[j]
                if size % 2:
                    _subtract(part, codes[i, places[size - 1]], gram[chosen[i, places[size - 1]], begin:end])
                if not nonneg:
                    for j in range(part.size):
                        part[j] = abs(part[j])
            for place in range(step):
                score[chosen[i, place]] = -np.inf
            best = _first(score)
            chosen[i, step], codes[i, step] = best, 0
            _copy(atom, atoms[best])
            for b in range(size):
                cross[b] = _dot(atom, atoms[chosen[i, places[b]]])
            for b in range(size):
                slope[b] = _dot(inverse[b, :size], cross[:size])
            energy = _dot(atom, atom)
            left = energy - _dot(cross[:size], slope[:size])
            # An atom in the span of the others adds nothing to them.
            if not left > IN_SPAN * energy:
                continue
            # What the atom correlates with the rest of the signal, over its own energy in it.
            value = (_dot(atom, signals[i]) - _dot(cross[:size], code[:size])) / left
            for b in range(size):
                code[b] -= value * slope[b]
            _border(inverse, slope, left, size)
            places[size], code[size] = step, value
            size += 1
            for b in range(size):
                codes[i, places[b]] = code[b]
