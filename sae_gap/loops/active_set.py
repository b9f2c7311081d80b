"""The certified coder: rounds of products with all atoms, and pivots on each sample's slots."""

import numba
import numpy as np

from sae_gap.loops.routines import (
    OPTIONS,
    Slots,
    copy,
    dot,
    drop,
    entry,
    helper,
    inlined,
    pivot,
    subtract,
)

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
COARSE = 2.0**-23
TINY = 2.0**-100
# An atom without weight enters a support only if its excess is above this share of the signal's
# norm.
IDLE = 1e-12
# Refinements of the codes of a basis in a round.
REFINEMENTS = 5

# States of a sample: in progress, ready for exact products, certified, out of slots, as good as
# rounding or its rounds allow.
OPEN, READY, DONE, FULL, SETTLED = range(5)
# Stages of a block: pivots on all atoms or on the given latents; rounds of products in single
# precision; rounds in double precision, for samples that these could not settle.
BEGIN, ROUGH, EXACT = range(3)


@inlined
def _slots(job, i):
    """The slots of a sample, with the work memory that all share."""
    given = (
        job.latents[i],
        job.work[0],
        job.work[1],
        job.code[i],
        job.sign[i],
        job.inner[i],
    )
    return Slots(
        *given, job.basis[i], job.inverse[i], job.work[2], job.work[3], job.work[4]
    )


@inlined
def _limit(job, i, latent):
    """The weight of a latent for a sample."""
    return job.row[i] * job.column[latent]


@helper
def _steep(pull, nonneg):
    return np.float64(pull) if nonneg else abs(np.float64(pull))


@helper
def _least(values, count):
    place = 0
    for n in range(1, count):
        if values[n] < values[place]:
            place = n
    return place


@helper
def _collect(job, i, pull, begin, most, most_close):
    """Merges the atoms of a tile that exceed their weight, or might by the bound on rounding, with
    those of earlier tiles.

    The `most` largest excesses lead. All such atoms are noted as close, until there are more than
    `most_close`; then it searches only for leaders, since the sample cannot be certified in this
    round. Until then the scale is the largest that may be feasible, and exact if the bound is zero.
    """
    nonneg = job.nonneg
    row = job.row[i]
    bound = job.bound[i]
    leaders = job.leaders[i]
    leads = job.leads[i]
    count = job.num_leaders[i]
    close = job.close[i]
    num_close = job.num_close[i]
    scale = job.scale[i]
    passed = job.passed
    low = -bound
    place = 0
    chunk = passed.size
    if count == most:
        place = _least(leads, most)
        low = leads[place]
    for start in range(0, pull.size, chunk):
        part = pull[start : start + chunk]
        weight = job.column[begin + start : begin + start + part.size]
        level = low if num_close > most_close else -bound
        # Without a branch this takes few instructions for many atoms.
        above = np.int64(0)
        for j in range(part.size):
            excess = _steep(part[j], nonneg) - row * weight[j]
            above += np.int64(1) if excess > level else np.int64(0)
        if above == 0:
            continue
        above = np.int64(0)
        for j in range(part.size):
            passed[above] = j
            excess = _steep(part[j], nonneg) - row * weight[j]
            above += np.int64(1) if excess > level else np.int64(0)
        for n in range(above):
            j = passed[n]
            steep = _steep(part[j], nonneg)
            limit = row * weight[j]
            latent = begin + start + j
            lead = steep - limit
            if num_close < close.size:
                close[num_close] = latent
            num_close += 1
            if scale * (steep - bound) > limit:
                scale = limit / (steep - bound)
            if count < most:
                leads[count] = lead
                leaders[count] = latent
                count += 1
            elif lead > low:
                leads[place] = lead
                leaders[place] = latent
            else:
                continue
            if count == most:
                place = _least(leads, most)
                low = leads[place]
    job.num_leaders[i], job.num_close[i], job.scale[i] = count, num_close, scale


@inlined
def _fill(job, i, top, slot):
    """The inner products of a slot's atom with those of all others."""
    atoms = job.atoms
    latents = job.latents[i]
    inner = job.inner[i]
    copy(job.atom, atoms[latents[slot]])
    for other in range(top):
        if latents[other] >= 0:
            inner[slot, other] = inner[other, slot] = dot(
                job.atom, atoms[latents[other]]
            )


@helper
def _solve_on_all(job, i, correlations):
    """Pivots on all atoms at once, by their Gram matrix, and stores the basis in the slots; returns
    its size.
    """
    slots = _slots(job, i)
    signal = job.signals[i]
    work = job.all
    given = (
        job.names,
        work[0],
        work[1],
        work[2],
        work[3],
        job.gram,
        job.chosen,
        slots.inverse,
    )
    every = Slots(*given, work[4], slots.cross, slots.slope)
    top = np.int64(correlations.size)
    for j in range(top):
        every.pull[j], every.weight[j] = correlations[j], _limit(job, i, j)
        every.code[j], every.sign[j] = 0, 0
    # There are no codes if the weight equals the largest correlation up to the rounding of its
    # type.
    floor = max(ROUNDING, 16 * job.eps) * np.sqrt(dot(signal, signal))
    # Not a plain 0, since Numba would compile the pivots again for that literal.
    size, _ = pivot(every, top, np.int64(0), job.nonneg, floor, DEPENDENT)
    for b in range(size):
        latent = job.chosen[b]
        slots.latents[b], slots.basis[b] = latent, b
        slots.code[b], slots.sign[b] = every.code[latent], every.sign[latent]
        for other in range(b + 1):
            value = job.gram[latent, job.chosen[other]]
            slots.inner[b, other] = slots.inner[other, b] = value
    job.size[i] = size
    return size


@helper
def _refine(slots, size, atoms, theta, enough):
    """Newton steps for the codes of the basis, with newly computed correlations; returns its size
    and the last error of these.

    Steps end once errors are at most `enough`, or no longer halve.
    """
    latents = slots.latents
    code = slots.code
    sign = slots.sign
    basis = slots.basis
    weight = slots.weight
    inverse = slots.inverse
    wrong = slots.cross
    worst = np.inf
    for _ in range(REFINEMENTS):
        before = worst
        worst = 0.0
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
                fix = -code[w]
                gone = True
            code[w] += fix
            subtract(theta, fix, atoms[latents[w]])
        if gone:
            for b in range(size - 1, -1, -1):
                w = basis[b]
                if code[w] * sign[w] <= 0:
                    code[w] = 0
                    sign[w] = 0
                    size = drop(inverse, basis, size, b)
    return size, worst


@numba.njit(**OPTIONS)
def _open(job, i):
    """Fills a sample's slots with the latents that open its working set; returns their number."""
    latents = job.latents[i]
    inner = job.inner[i]
    top = np.int64(0)
    for latent in job.begun[i]:
        if latent >= 0:
            copy(job.exact[top], job.atoms[latent])
            latents[top], job.code[i, top], job.sign[i, top] = latent, 0, 0
            job.work[0, top] = dot(job.signals[i], job.exact[top])
            job.work[1, top] = _limit(job, i, latent)
            top += 1
    # There is no basis yet, so the room of its inverse is free.
    product = job.inverse[i].reshape(-1)[: top * top].reshape(top, top)
    np.dot(job.exact[:top], job.exact[:top].T, product)
    for w in range(top):
        copy(inner[w, :top], product[w])
    return top


@inlined
def _advance(job, i, top, candidates):
    """Takes violators into free slots, solves on the slots, and stores the codes and their
    residual. The first `top` slots are filled already.

    Returns how many atoms entered the basis, and whether a candidate found no slot.
    """
    atoms = job.atoms
    nonneg = job.nonneg
    signal = job.signals[i]
    theta = job.theta[i]
    slots = _slots(job, i)
    size = job.size[i]
    latents = slots.latents
    pull = slots.pull
    weight = slots.weight
    code = slots.code
    sign = slots.sign
    basis = slots.basis
    norm = np.sqrt(dot(signal, signal))
    # If a fit without weights is exact, correlations are rounding alone.
    floor = (IDLE if job.limit == 0 and job.row[i] == 0 else ROUNDING) * norm
    # Not a plain 0, since Numba would compile functions for that literal.
    full = False
    free = 0
    every = top > 0
    for b in range(size):
        w = basis[b]
        top = max(top, w + 1)
        weight[w] = _limit(job, i, latents[w])
    for latent in candidates:
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
        value = dot(theta, atoms[latent])
        limit = _limit(job, i, latent)
        if _steep(value, nonneg) - limit <= floor:
            continue
        top = max(top, free + 1)
        latents[free] = latent
        pull[free] = value
        weight[free] = limit
        code[free] = 0
        sign[free] = 0
        _fill(job, i, top, free)
    total = 0
    for _ in range(2):
        size, entered = pivot(slots, top, size, nonneg, floor, DEPENDENT)
        total += entered
        copy(theta, signal)
        for b in range(size):
            subtract(theta, code[basis[b]], atoms[latents[basis[b]]])
        # If nothing enters, only better values can still certify the codes.
        enough = (0.1 if entered or every else 0.001) * floor
        size, worst = _refine(slots, size, atoms, theta, enough)
        if worst <= LOST * norm:
            break
        # The inverse is lost to rounding.
        size = 0
        total = 0
        copy(theta, signal)
        for w in range(top):
            if latents[w] >= 0:
                code[w] = 0
                sign[w] = 0
                pull[w] = dot(signal, atoms[latents[w]])
    for w in range(top):
        if abs(sign[w]) != 1:
            latents[w] = -1
            sign[w] = 0
    job.size[i] = size
    return total, full


@inlined
def _certify(job, i):
    """Stores the rounded codes, their objective, and their duality gap at the scaled residual
    before rounding.
    """
    atoms = job.atoms
    signal = job.signals[i]
    theta = job.theta[i]
    rest = job.atom
    scale = job.scale[i]
    found = job.found[i]
    values = job.values[i]
    size = job.size[i]
    copy(rest, signal)
    linear = 0.0
    slack = 0.0
    for b in range(size):
        w = job.basis[i, b]
        latent = job.latents[i, w]
        found[b] = latent
        values[b] = job.code[i, w]
        value = np.float64(values[b])
        limit = _limit(job, i, latent)
        subtract(rest, value, atoms[latent])
        pull = dot(theta, atoms[latent]) * (1.0 if value > 0 else -1.0)
        linear += limit * abs(value)
        slack += abs(value) * max(limit - scale * pull, 0.0)
    for b in range(size, found.size):
        found[b] = -1
        values[b] = 0
    objective = 0.5 * dot(rest, rest) + linear
    subtract(rest, scale, theta)
    gap = 0.5 * dot(rest, rest) + slack
    job.objective[i], job.gap[i] = objective, gap
    # An objective below this cannot be told from zero; see `lasso_problem.is_converged`.
    least = 0.5 * (16 * job.eps) ** 2 * dot(signal, signal)
    # Slightly less than the tolerance, so that the gap meets it when both are rounded.
    return (
        gap <= 0.999 * job.tol * objective and objective < np.inf
    ) or objective <= least


@inlined
def _nearly(job, i):
    """Tells whether the gap may be met at the scale from coarse correlations, with those of the
    basis equal to their weights.
    """
    theta = job.theta[i]
    linear = 0.0
    for b in range(job.size[i]):
        w = job.basis[i, b]
        linear += _limit(job, i, job.latents[i, w]) * abs(job.code[i, w])
    energy = 0.5 * dot(theta, theta)
    short = 1 - job.scale[i]
    return short**2 * energy + short * linear <= 0.25 * job.tol * (energy + linear)


@helper
def _rescale(job, i, close):
    """The scale for all atoms, from exact correlations of the close ones, since no other exceeds
    its weight; returns the largest excess.
    """
    theta = job.theta[i]
    scale = 1.0
    excess = 0.0
    for latent in close:
        if latent < 0:
            continue
        steep = _steep(dot(theta, job.atoms[latent]), job.nonneg)
        limit = _limit(job, i, latent)
        if steep > limit:
            scale = min(scale, limit / steep)
            excess = max(excess, steep - limit)
    job.scale[i] = scale
    return excess


@helper
def _gather(job, stage):
    """Lists the samples in progress, and copies their residuals beside each other; returns their
    number.
    """
    active = 0
    for i in range(job.state.size):
        theta = job.theta[i]
        if stage == ROUGH and job.state[i] == OPEN and job.rounds[i] >= job.limit - 1:
            job.state[i] = READY
        if job.state[i] != OPEN:
            continue
        job.who[active], job.num_leaders[i], job.num_close[i] = i, 0, 0
        job.scale[i], job.bound[i] = 1.0, 0.0
        if stage == ROUGH:
            copy(job.coarse_theta[active], theta)
            job.bound[i] = COARSE * (theta.size + 4) * np.sqrt(dot(theta, theta)) + TINY
        else:
            copy(job.exact_theta[active], theta)
        active += 1
    return active


@numba.njit(**OPTIONS)
def _correlate(job, stage, active, few):
    """Correlates the residuals with all atoms, a tile of them at a time; the product of the last
    tile stays.
    """
    num_latents = job.atoms.shape[0]
    tile = job.exact_pull.shape[1]
    for begin in range(0, num_latents, tile):
        # The last tile overlaps the one before.
        first = min(begin, num_latents - tile)
        if stage == ROUGH:
            atoms = job.coarse[first : first + tile]
            np.dot(job.coarse_theta[:active], atoms.T, job.coarse_pull[:active])
        else:
            for j in range(tile):
                copy(job.exact[j], job.atoms[first + j])
            np.dot(
                job.exact_theta[:active], job.exact[:tile].T, job.exact_pull[:active]
            )
        for n in range(active if stage != BEGIN else 0):
            i = job.who[n]
            most = min(job.leaders.shape[1], max(few, job.size[i] // 2))
            near = begin - first
            if stage == ROUGH:
                most_close = job.size[i] + 2 * few
                _collect(job, i, job.coarse_pull[n, near:], begin, most, most_close)
            else:
                _collect(job, i, job.exact_pull[n, near:], begin, most, num_latents)


@inlined
def _is_certified(job, i, stage, few):
    """Certifies a sample, if its gap may be met; stores the codes then."""
    if stage == ROUGH:
        near = job.num_close[i]
        if near > job.size[i] + 2 * few or not _nearly(job, i):
            return False
        _rescale(job, i, job.close[i, :near])
    return stage != BEGIN and _certify(job, i)


@inlined
def _next_state(job, i, stage, top):
    """Solves a sample on its slots, and says how it goes on."""
    leaders = job.leaders[i, : job.num_leaders[i]]
    entered, full = _advance(job, i, top, leaders)
    if stage == BEGIN and job.limit == 0:
        # No other atom may enter, so these alone bound the gap.
        excess = _rescale(job, i, job.begun[i])
        signal = job.signals[i]
        done = _certify(job, i)
        # The inverse was lost to rounding.
        lost = excess > LOST * np.sqrt(dot(signal, signal))
        return FULL if lost else DONE if done else SETTLED
    if stage == BEGIN:
        return READY
    if full and job.size[i] > job.found.shape[1] - FEWEST:
        copy(job.found[i], job.latents[i])
        return FULL
    if entered == 0:
        return SETTLED if stage == EXACT else READY
    return OPEN


@entry
def code_block(job):
    """Codes a block of samples."""
    state = job.state
    cold = job.begun.size == 0
    few = min(job.leaders.shape[1], FEWEST + job.atoms.size // NUMBERS)
    for i in range(state.size):
        job.size[i] = 0
        job.latents[i, :] = -1
        copy(job.theta[i], job.signals[i])
    for stage in range(BEGIN, EXACT + 1):
        at_once = stage == BEGIN and job.gram.size > 0 and cold
        # Without latents to open its slots, a sample begins with a round.
        idle = stage == BEGIN and cold and job.limit > 0 and not at_once
        while not idle:
            active = _gather(job, stage)
            if active == 0:
                break
            if stage != BEGIN or at_once:
                _correlate(job, stage, active, few)
            for n in range(active):
                i = job.who[n]
                top = np.int64(0)
                job.rounds[i] += stage != BEGIN or at_once
                if _is_certified(job, i, stage, few):
                    state[i] = DONE
                elif stage == EXACT and job.rounds[i] >= job.limit:
                    state[i] = SETTLED
                else:
                    if at_once:
                        top = _solve_on_all(job, i, job.exact_pull[n])
                    elif stage == BEGIN:
                        top = _open(job, i)
                    state[i] = _next_state(job, i, stage, top)
        for i in range(state.size):
            if state[i] == READY:
                state[i] = OPEN
