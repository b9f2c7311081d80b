"""The certified coder: rounds of products with all atoms, and pivots on each sample's slots."""

from typing import no_type_check

import numba
import numpy as np

from sae_gap.loops.routines import OPTIONS, copy, dot, drop, entry, helper, pivot, subtract

# Fewest violators that enter in a round; one more for each so many numbers of the dictionary, since
# products then take longer.
FEWEST = 4
NUMBERS = 2**20
# Products after which it gives up on a sample.
ROUNDS = 500
# An atom is dependent if less than this share of its energy is outside the span of the basis.
DEPENDENT = 1e-11
# The excess of a correlation is rounding if it is below this share of the signal's norm.
ROUNDING = 64 * np.finfo(np.float64).eps
# The basis is built again if the error of a correlation in it exceeds this share of the signal's
# norm.
LOST = 1e-7
# Rounded to single precision and computed in it, the inner product of two vectors of n numbers has
# an error of at most (n + 2) / 2 times this share of their norms, and an atom's norm is below 1.6;
# underflows add less than `TINY`.
COARSE, TINY = 2.0**-23, 2.0**-100
# An atom without weight enters a support only if its excess is above this share of the signal's
# norm.
IDLE = 1e-12
# Refinements of the codes of a basis in a round.
REFINEMENTS = 5

# States of a sample: in progress, ready for exact products, certified, out of slots, as good as
# rounding or its rounds allow.
OPEN, READY, DONE, FULL, SETTLED = range(5)


@helper
@no_type_check
def _steep(pull, nonneg):
    return np.float64(pull) if nonneg else abs(np.float64(pull))


@helper
@no_type_check
def _least(values, count):
    place = 0
    for n in range(1, count):
        if values[n] < values[place]:
            place = n
    return place


@helper
@no_type_check
def _collect(problem, block, room, i, pull, begin, most, most_close):
    """Merges the atoms of a tile that exceed their weight, or might by the bound on rounding, with
    those of earlier tiles.

    The `most` largest excesses lead. All such atoms are noted as close, until there are more than
    `most_close`; then it searches only for leaders, since the sample cannot be certified in this
    round. Until then the scale is the largest that may be feasible, and exact if the bound is zero.
    """
    nonneg, row, column, bound = (
        problem.nonneg,
        block.row[i],
        problem.column[begin:],
        room.bound[i],
    )
    leaders, leads, count = room.leaders[i], room.leads[i], room.num_leaders[i]
    close, num_close, scale, passed = room.close[i], room.num_close[i], room.scale[i], room.passed
    low, place, chunk = -bound, 0, passed.size
    if count == most:
        place = _least(leads, most)
        low = leads[place]
    for start in range(0, pull.size, chunk):
        part, weight = pull[start : start + chunk], column[start : start + chunk]
        level = low if num_close > most_close else -bound
        # Without a branch this takes few instructions for many atoms.
        above = np.int64(0)
        for j in range(part.size):
            above += (
                np.int64(1) if _steep(part[j], nonneg) - row * weight[j] > level else np.int64(0)
            )
        if above == 0:
            continue
        above = np.int64(0)
        for j in range(part.size):
            passed[above] = j
            above += (
                np.int64(1) if _steep(part[j], nonneg) - row * weight[j] > level else np.int64(0)
            )
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


@helper
@no_type_check
def _fill(atoms, gram, latents, top, slot, atom, inner):
    """The inner products of a slot's atom with those of all others."""
    latent = latents[slot]
    if gram.size == 0:
        copy(atom, atoms[latent])
    for other in range(top):
        if latents[other] >= 0:
            value = gram[latent, latents[other]] if gram.size else dot(atom, atoms[latents[other]])
            inner[slot, other] = inner[other, slot] = value


@helper
@no_type_check
def _solve_on_all(problem, block, room, i, correlations):
    """Pivots on all atoms at once, by their Gram matrix, and stores the basis in the slots."""
    nonneg, gram, signal, column = (
        problem.nonneg,
        problem.gram,
        block.signals[i],
        problem.column,
    )
    pull, weight, code, sign, spare = (
        room.all[0],
        room.all[1],
        room.all[2],
        room.all[3],
        room.all[4],
    )
    latents, basis, chosen, inverse, cross, slope = (
        room.latents[i],
        room.basis[i],
        room.chosen,
        room.inverse[i],
        room.work[3],
        room.work[4],
    )
    for j in range(pull.size):
        pull[j], weight[j], code[j], sign[j] = correlations[j], block.row[i] * column[j], 0, 0
    # There are no codes if the weight equals the largest correlation up to the rounding of its
    # type.
    floor, top = max(ROUNDING, 16 * problem.eps) * np.sqrt(dot(signal, signal)), np.int64(pull.size)
    # Not a plain 0, since Numba would compile the pivots again for that literal.
    size = np.int64(0)
    size, _ = pivot(
        nonneg,
        floor,
        DEPENDENT,
        top,
        room.names,
        pull,
        weight,
        code,
        sign,
        gram,
        chosen,
        inverse,
        size,
        spare,
        cross,
        slope,
    )
    for b in range(size):
        latent = chosen[b]
        latents[b], basis[b], room.code[i, b], room.sign[i, b] = (
            latent,
            b,
            code[latent],
            sign[latent],
        )
        _fill(problem.atoms, gram, latents, b + 1, b, room.atom, room.inner[i])
    room.size[i] = size


@helper
@no_type_check
def _refine(enough, atoms, latents, weight, code, sign, basis, inverse, size, theta, wrong):
    """Newton steps for the codes of the basis, with newly computed correlations; returns its size
    and the last error of these.

    Steps end once errors are at most `enough`, or no longer halve.
    """
    worst = np.inf
    for _ in range(REFINEMENTS):
        before, worst = worst, 0.0
        for b in range(size):
            w = basis[b]
            wrong[b] = dot(theta, atoms[latents[w]]) - weight[w] * sign[w]
            # Keep a NaN.
            worst = worst if abs(wrong[b]) <= worst else abs(wrong[b])
        if worst <= enough or not worst <= 0.5 * before:
            break
        gone = False
        for b in range(size):
            w = basis[b]
            fix = dot(inverse[b, :size], wrong[:size])
            if (code[w] + fix) * sign[w] <= 0:
                fix, gone = -code[w], True
            code[w] += fix
            subtract(theta, fix, atoms[latents[w]])
        if gone:
            for b in range(size - 1, -1, -1):
                w = basis[b]
                if code[w] * sign[w] <= 0:
                    code[w], sign[w] = 0, 0
                    size = drop(inverse, basis, size, b)
    return size, worst


@numba.njit(**OPTIONS)
@no_type_check
def _open(problem, block, room, i):
    """Fills a sample's slots with the latents that open its working set; returns their number."""
    latents, inner, top = room.latents[i], room.inner[i], np.int64(0)
    for latent in block.begun[i]:
        if latent >= 0:
            copy(room.exact[top], problem.atoms[latent])
            latents[top], room.code[i, top], room.sign[i, top] = latent, 0, 0
            room.work[0, top] = dot(block.signals[i], room.exact[top])
            room.work[1, top] = block.row[i] * problem.column[latent]
            top += 1
            if problem.gram.size:
                _fill(problem.atoms, problem.gram, latents, top, top - 1, room.atom, inner)
    if problem.gram.size == 0:
        # There is no basis yet, so the room of its inverse is free.
        product = room.inverse[i].reshape(-1)[: top * top].reshape(top, top)
        np.dot(room.exact[:top], room.exact[:top].T, product)
        for w in range(top):
            copy(inner[w, :top], product[w])
    return top


@helper
@no_type_check
def _advance(problem, block, room, i, top, candidates):
    """Takes violators into free slots, solves on the slots, and stores the codes and their
    residual. The first `top` slots are filled already.

    Returns how many atoms entered the basis, and whether a candidate found no slot.
    """
    atoms, nonneg, signal, theta = problem.atoms, problem.nonneg, block.signals[i], room.theta[i]
    row, column = block.row[i], problem.column
    latents, code, sign, inner = room.latents[i], room.code[i], room.sign[i], room.inner[i]
    basis, inverse, size = room.basis[i], room.inverse[i], room.size[i]
    work = room.work
    pull, weight, spare, cross, slope = work[0], work[1], work[2], work[3], work[4]
    norm = np.sqrt(dot(signal, signal))
    # If a fit without weights is exact, correlations are rounding alone.
    floor = (IDLE if problem.limit == 0 and row == 0 else ROUNDING) * norm
    # Not a plain 0, since Numba would compile functions for that literal.
    full, free, every = False, 0, top > 0
    for b in range(size):
        w = basis[b]
        top = max(top, w + 1)
        weight[w] = row * column[latents[w]]
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
        value, limit = dot(theta, atoms[latent]), row * column[latent]
        if (value if nonneg else abs(value)) - limit <= floor:
            continue
        top = max(top, free + 1)
        latents[free], pull[free], weight[free], code[free], sign[free] = latent, value, limit, 0, 0
        _fill(atoms, problem.gram, latents, top, free, room.atom, inner)
    total = 0
    for _ in range(2):
        size, entered = pivot(
            nonneg,
            floor,
            DEPENDENT,
            top,
            latents,
            pull,
            weight,
            code,
            sign,
            inner,
            basis,
            inverse,
            size,
            spare,
            cross,
            slope,
        )
        total += entered
        copy(theta, signal)
        for b in range(size):
            subtract(theta, code[basis[b]], atoms[latents[basis[b]]])
        # If nothing enters, only better values can still certify the codes.
        enough = (0.1 if entered or every else 0.001) * floor
        size, worst = _refine(
            enough, atoms, latents, weight, code, sign, basis, inverse, size, theta, cross
        )
        if worst <= LOST * norm:
            break
        # The inverse is lost to rounding.
        size, total = 0, 0
        copy(theta, signal)
        for w in range(top):
            if latents[w] >= 0:
                code[w], sign[w], pull[w] = 0, 0, dot(signal, atoms[latents[w]])
    for w in range(top):
        if abs(sign[w]) != 1:
            latents[w], sign[w] = -1, 0
    room.size[i] = size
    return total, full


@helper
@no_type_check
def _certify(problem, block, room, i):
    """Stores the rounded codes, their objective, and their duality gap at the scaled residual
    before rounding.
    """
    atoms, signal, theta, rest = problem.atoms, block.signals[i], room.theta[i], room.atom
    row, column, scale = block.row[i], problem.column, room.scale[i]
    found, values, latents, basis, size = (
        block.found[i],
        block.values[i],
        room.latents[i],
        room.basis[i],
        room.size[i],
    )
    copy(rest, signal)
    linear, slack = 0.0, 0.0
    for b in range(size):
        latent = latents[basis[b]]
        found[b], values[b] = latent, room.code[i, basis[b]]
        value, limit = np.float64(values[b]), row * column[latent]
        subtract(rest, value, atoms[latent])
        pull = dot(theta, atoms[latent]) * (1.0 if value > 0 else -1.0)
        linear += limit * abs(value)
        slack += abs(value) * max(limit - scale * pull, 0.0)
    for b in range(size, found.size):
        found[b], values[b] = -1, 0
    objective = 0.5 * dot(rest, rest) + linear
    subtract(rest, scale, theta)
    gap = 0.5 * dot(rest, rest) + slack
    block.objective[i], block.gap[i] = objective, gap
    # An objective below this cannot be told from zero; see `lasso_problem.is_converged`.
    least = 0.5 * (16 * problem.eps) ** 2 * dot(signal, signal)
    # Slightly less than the tolerance, so that the gap meets it when both are rounded.
    return (gap <= 0.999 * problem.tol * objective and objective < np.inf) or objective <= least


@helper
@no_type_check
def _nearly(problem, block, room, i):
    """Tells whether the gap may be met at the scale from coarse correlations, with those of the
    basis equal to their weights.
    """
    theta, column, linear = room.theta[i], problem.column, 0.0
    for b in range(room.size[i]):
        w = room.basis[i, b]
        linear += block.row[i] * column[room.latents[i, w]] * abs(room.code[i, w])
    energy, short = 0.5 * dot(theta, theta), 1 - room.scale[i]
    return short**2 * energy + short * linear <= 0.25 * problem.tol * (energy + linear)


@helper
@no_type_check
def _rescale(problem, block, room, i, close):
    """The scale for all atoms, from exact correlations of the close ones, since no other exceeds
    its weight; returns the largest excess.
    """
    theta, row, column, scale = (
        room.theta[i],
        block.row[i],
        problem.column,
        1.0,
    )
    excess = 0.0
    for latent in close:
        if latent < 0:
            continue
        steep, limit = (
            _steep(dot(theta, problem.atoms[latent]), problem.nonneg),
            row * column[latent],
        )
        if steep > limit:
            scale, excess = min(scale, limit / steep), max(excess, steep - limit)
    room.scale[i] = scale
    return excess


@entry
@no_type_check
def code_block(problem, block, room):
    """Codes a block of samples."""
    num_samples, slots, num_latents = (
        block.signals.shape[0],
        block.found.shape[1],
        problem.atoms.shape[0],
    )
    tile, state = room.exact_pull.shape[1], block.state
    few = min(room.leaders.shape[1], FEWEST + problem.atoms.size // NUMBERS)
    who = room.who
    for i in range(num_samples):
        room.size[i] = 0
        room.latents[i, :] = -1
        copy(room.theta[i], block.signals[i])
    # Stages: pivots on all atoms or on the given latents; rounds of coarse products; rounds of
    # exact products for samples that these could not settle.
    for stage in range(3):
        at_once = stage == 0 and problem.at_once and block.begun.size == 0
        while True:
            active = 0
            for i in range(num_samples):
                if stage == 1 and state[i] == OPEN and block.rounds[i] >= problem.limit - 1:
                    state[i] = READY
                if state[i] == OPEN:
                    who[active], room.num_leaders[i], room.num_close[i], room.scale[i] = (
                        i,
                        0,
                        0,
                        1.0,
                    )
                    room.bound[i] = 0.0
                    if stage == 1:
                        theta = room.theta[i]
                        copy(room.coarse_theta[active], theta)
                        room.bound[i] = (
                            COARSE * (theta.size + 4) * np.sqrt(dot(theta, theta)) + TINY
                        )
                    else:
                        copy(room.exact_theta[active], room.theta[i])
                    active += 1
            idle = stage == 0 and block.begun.size == 0 and problem.limit > 0 and not at_once
            if active == 0 or idle:
                break
            for begin in range(0, num_latents if stage or at_once else 0, tile):
                # The last tile overlaps the one before.
                first = min(begin, num_latents - tile)
                if stage == 1:
                    np.dot(
                        room.coarse_theta[:active],
                        problem.coarse[first : first + tile].T,
                        room.coarse_pull[:active],
                    )
                else:
                    for j in range(tile):
                        copy(room.exact[j], problem.atoms[first + j])
                    np.dot(room.exact_theta[:active], room.exact[:tile].T, room.exact_pull[:active])
                for n in range(active):
                    i = who[n]
                    most, most_close = (
                        min(room.leaders.shape[1], max(few, room.size[i] // 2)),
                        room.size[i] + 2 * few,
                    )
                    if stage == 1:
                        _collect(
                            problem,
                            block,
                            room,
                            i,
                            room.coarse_pull[n, begin - first :],
                            begin,
                            most,
                            most_close,
                        )
                    elif stage == 2:
                        _collect(
                            problem,
                            block,
                            room,
                            i,
                            room.exact_pull[n, begin - first :],
                            begin,
                            most,
                            num_latents,
                        )
            for n in range(active):
                i = who[n]
                block.rounds[i] += stage > 0 or at_once
                ripe = stage == 2
                if (
                    stage == 1
                    and room.num_close[i] <= room.size[i] + 2 * few
                    and _nearly(problem, block, room, i)
                ):
                    _rescale(problem, block, room, i, room.close[i, : room.num_close[i]])
                    ripe = True
                if ripe and _certify(problem, block, room, i):
                    state[i] = DONE
                elif stage == 1 and block.rounds[i] >= ROUNDS:
                    state[i] = READY
                elif stage == 2 and block.rounds[i] >= min(problem.limit, ROUNDS):
                    state[i] = SETTLED
                else:
                    top = np.int64(0)
                    if at_once:
                        _solve_on_all(problem, block, room, i, room.exact_pull[n])
                        top = room.size[i]
                    elif stage == 0:
                        top = _open(problem, block, room, i)
                    leaders = room.leaders[i, : room.num_leaders[i]]
                    entered, full = _advance(problem, block, room, i, top, leaders)
                    if stage == 0 and problem.limit == 0:
                        # No other atom may enter, so these alone bound the gap.
                        excess = _rescale(problem, block, room, i, block.begun[i])
                        state[i] = DONE if _certify(problem, block, room, i) else SETTLED
                        # The inverse was lost to rounding.
                        signal = block.signals[i]
                        if excess > LOST * np.sqrt(dot(signal, signal)):
                            state[i] = FULL
                    elif stage == 0:
                        state[i] = READY
                    elif full and room.size[i] > slots - FEWEST:
                        state[i] = FULL
                        copy(block.found[i], room.latents[i])
                    elif entered == 0:
                        state[i] = SETTLED if stage == 2 else READY
        for i in range(num_samples):
            if state[i] == READY:
                state[i] = OPEN
