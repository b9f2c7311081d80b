"""The certified coder: rounds of products with all atoms, and pivots on each sample's slots."""

from typing import Any

import numba
import numpy as np
from numpy import float64, int64

from sae_gap.loops.block import Block, Room, Shared
from sae_gap.loops.routines import (
    OPTIONS,
    Slots,
    copy,
    dot,
    drop,
    entry,
    helper,
    inlined,
    length,
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
ROUNDING = 64 * np.finfo(float64).eps
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
# precision, without which 500 samples of 576 dimensions on 2,048 atoms take 1.4 times as long; and
# rounds in double precision, for samples that these could not settle.
BEGIN, ROUGH, EXACT = range(3)


@inlined
def _slots(room: Room, i: int) -> Slots:
    """The slots of a sample, with the work memory that all share. Only functions that count no
    references may call this, since it counts none.
    """
    return Slots(
        latents=room.latents[i],
        pull=room.work[0],
        weight=room.work[1],
        code=room.code[i],
        sign=room.sign[i],
        inner=room.inner[i],
        basis=room.basis[i],
        inverse=room.inverse[i],
        spare=room.work[2],
        cross=room.work[3],
        slope=room.work[4],
    )


@inlined
def _limit(shared: Shared, block: Block, i: int, latent: int) -> float:
    """The weight of a latent for a sample."""
    return block.row[i] * shared.column[latent]


@helper
def _steep(pull: float, nonneg: bool) -> float:
    return float64(pull) if nonneg else abs(float64(pull))


@helper
def _pass(
    pull: np.ndarray,
    weight: np.ndarray,
    row: float,
    level: float,
    nonneg: bool,
    passed: np.ndarray,
) -> int:
    """Lists the correlations whose excess is above a level; returns their number."""
    # Without a branch this takes few instructions for many atoms.
    above = 0
    for j in range(pull.size):
        excess = _steep(pull[j], nonneg) - row * weight[j]
        above += 1 if excess > level else 0
    if above == 0:
        return above
    above = 0
    for j in range(pull.size):
        passed[above] = j
        excess = _steep(pull[j], nonneg) - row * weight[j]
        above += 1 if excess > level else 0
    return above


@helper
def _collect(
    shared: Shared,
    block: Block,
    room: Room,
    i: int,
    pull: np.ndarray,
    begin: int,
    most: int,
    most_close: int,
) -> None:
    """Merges the atoms of a tile that exceed their weight, or might by the bound on rounding, with
    those of earlier tiles.

    The `most` largest excesses lead. All such atoms are noted as close, until there are more than
    `most_close`; then it searches only for leaders, since the sample cannot be certified in this
    round. Until then the scale is the largest that may be feasible, and exact if the bound is zero.
    """
    row = block.row[i]
    bound = room.bound[i]
    leaders = room.leaders[i]
    leads = room.leads[i, :most]
    count = room.num_leaders[i]
    close = room.close[i]
    num_close = room.num_close[i]
    scale = room.scale[i]
    passed = room.passed
    low = -bound
    place: Any = 0
    if count == most:
        place = np.argmin(leads)
        low = leads[place]
    for start in range(0, pull.size, passed.size):
        part = pull[start : start + passed.size]
        first = begin + start
        weight = shared.column[first : first + part.size]
        level = low if num_close > most_close else -bound
        for n in range(_pass(part, weight, row, level, shared.nonneg, passed)):
            j = passed[n]
            steep = _steep(part[j], shared.nonneg)
            limit = row * weight[j]
            lead = steep - limit
            if num_close < close.size:
                close[num_close] = first + j
            num_close += 1
            if scale * (steep - bound) > limit:
                scale = limit / (steep - bound)
            if count < most:
                place = count
                count += 1
            elif not lead > low:
                continue
            leads[place] = lead
            leaders[place] = first + j
            if count == most:
                place = np.argmin(leads)
                low = leads[place]
    room.num_leaders[i] = count
    room.num_close[i] = num_close
    room.scale[i] = scale


@inlined
def _fill(shared: Shared, room: Room, i: int, top: int, slot: int) -> None:
    """The inner products of a slot's atom with those of all others."""
    latents = room.latents[i]
    inner = room.inner[i]
    copy(room.atom, shared.atoms[latents[slot]])
    for other in range(top):
        if latents[other] >= 0:
            value = dot(room.atom, shared.atoms[latents[other]])
            inner[slot, other] = value
            inner[other, slot] = value


@helper
def _solve_on_all(
    shared: Shared, block: Block, room: Room, i: int, correlations: np.ndarray
) -> int:
    """Pivots on all atoms at once, by their Gram matrix, and stores the basis in the slots; returns
    its size.
    """
    gram = shared.gram
    slots = _slots(room, i)
    everyone = Slots(
        latents=room.names,
        pull=room.all[0],
        weight=room.all[1],
        code=room.all[2],
        sign=room.all[3],
        inner=gram,
        basis=room.chosen,
        inverse=slots.inverse,
        spare=room.all[4],
        cross=slots.cross,
        slope=slots.slope,
    )
    top = int64(correlations.size)
    for j in range(top):
        everyone.pull[j] = correlations[j]
        everyone.weight[j] = _limit(shared, block, i, j)
        everyone.code[j] = 0
        everyone.sign[j] = 0
    # There are no codes if the weight equals the largest correlation up to the rounding of its
    # type.
    floor = max(ROUNDING, 16 * shared.eps) * length(block.signals[i])
    # Not a plain 0, since Numba would compile the pivots again for that literal.
    size, _ = pivot(everyone, top, int64(0), shared.nonneg, floor, DEPENDENT)
    for b in range(size):
        latent = room.chosen[b]
        slots.latents[b] = latent
        slots.basis[b] = b
        slots.code[b] = everyone.code[latent]
        slots.sign[b] = everyone.sign[latent]
        for other in range(b + 1):
            value = gram[latent, room.chosen[other]]
            slots.inner[b, other] = value
            slots.inner[other, b] = value
    room.size[i] = size
    return size


@helper
def _misfit(
    slots: Slots, size: int, atoms: np.ndarray, theta: np.ndarray, wrong: np.ndarray
) -> float:
    """By how much the correlations of the basis differ from their weights; returns the largest
    difference, or NaN if one is.
    """
    worst = 0.0
    for b in range(size):
        w = slots.basis[b]
        pull = dot(theta, atoms[slots.latents[w]])
        wrong[b] = pull - slots.weight[w] * slots.sign[w]
        worst = worst if abs(wrong[b]) <= worst else abs(wrong[b])
    return worst


@helper
def _refine(
    slots: Slots, size: int, atoms: np.ndarray, theta: np.ndarray, enough: float
) -> tuple[int, float]:
    """Newton steps for the codes of the basis, with newly computed correlations; returns its size
    and the last error of these.

    Steps end once errors are at most `enough`, or no longer halve.
    """
    code = slots.code
    sign = slots.sign
    basis = slots.basis
    inverse = slots.inverse
    wrong = slots.cross
    worst = np.inf
    for _ in range(REFINEMENTS):
        before = worst
        worst = _misfit(slots, size, atoms, theta, wrong)
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
            subtract(theta, fix, atoms[slots.latents[w]])
        if gone:
            for b in range(size - 1, -1, -1):
                w = basis[b]
                if code[w] * sign[w] <= 0:
                    code[w] = 0
                    sign[w] = 0
                    size = drop(inverse, basis, size, b)
    return size, worst


@numba.njit(**OPTIONS)
def _open(shared: Shared, block: Block, room: Room, i: int) -> int:
    """Fills a sample's slots with the latents that open its working set; returns their number."""
    top = 0
    for latent in block.opening[i]:
        if latent >= 0:
            copy(room.exact[top], shared.atoms[latent])
            room.latents[i, top] = latent
            room.code[i, top] = 0
            room.sign[i, top] = 0
            room.work[0, top] = dot(block.signals[i], room.exact[top])
            room.work[1, top] = _limit(shared, block, i, latent)
            top += 1
    # There is no basis yet, so the room of its inverse is free.
    product = room.inverse[i].reshape(-1)[: top * top].reshape(top, top)
    np.dot(room.exact[:top], room.exact[:top].T, product)
    for w in range(top):
        copy(room.inner[i, w, :top], product[w])
    return top


@inlined
def _take_in(
    shared: Shared,
    block: Block,
    room: Room,
    i: int,
    top: int,
    floor: float,
    candidates: np.ndarray,
) -> tuple[int, bool]:
    """Takes violators into free slots; returns the end of the slots in use, and whether a violator
    found none.
    """
    slots = _slots(room, i)
    latents = slots.latents
    free = 0
    for latent in candidates:
        held = latent < 0
        for b in range(room.size[i]):
            held = held or latents[slots.basis[b]] == latent
        if held:
            continue
        while free < latents.size and latents[free] >= 0:
            free += 1
        if free == latents.size:
            return top, True
        value = dot(room.theta[i], shared.atoms[latent])
        limit = _limit(shared, block, i, latent)
        if _steep(value, shared.nonneg) - limit <= floor:
            continue
        top = max(top, free + 1)
        latents[free] = latent
        slots.pull[free] = value
        slots.weight[free] = limit
        slots.code[free] = 0
        slots.sign[free] = 0
        _fill(shared, room, i, top, free)
    return top, False


@inlined
def _solve_on_slots(
    shared: Shared,
    block: Block,
    room: Room,
    i: int,
    top: int,
    floor: float,
    opens: bool,
) -> int:
    """Solves on the first slots, and stores the codes and their residual; returns how many atoms
    entered the basis.
    """
    atoms = shared.atoms
    signal = block.signals[i]
    theta = room.theta[i]
    slots = _slots(room, i)
    latents = slots.latents
    code = slots.code
    size = room.size[i]
    total = 0
    for _ in range(2):
        size, entered = pivot(slots, top, size, shared.nonneg, floor, DEPENDENT)
        total += entered
        copy(theta, signal)
        for b in range(size):
            w = slots.basis[b]
            subtract(theta, code[w], atoms[latents[w]])
        # If nothing enters, only better values can still certify the codes.
        enough = (0.1 if entered or opens else 0.001) * floor
        size, worst = _refine(slots, size, atoms, theta, enough)
        if worst <= LOST * length(signal):
            break
        # The inverse is lost to rounding.
        size = 0
        total = 0
        copy(theta, signal)
        for w in range(top):
            if latents[w] >= 0:
                code[w] = 0
                slots.sign[w] = 0
                slots.pull[w] = dot(signal, atoms[latents[w]])
    room.size[i] = size
    return total


@inlined
def _advance(
    shared: Shared, block: Block, room: Room, i: int, top: int, candidates: np.ndarray
) -> tuple[int, bool]:
    """Takes violators into free slots, and solves on the slots. The first `top` slots are filled
    already.

    Returns how many atoms entered the basis, and whether a candidate found no slot.
    """
    slots = _slots(room, i)
    # If a fit without weights is exact, correlations are rounding alone.
    share = IDLE if shared.limit == 0 and block.row[i] == 0 else ROUNDING
    floor = share * length(block.signals[i])
    opens = top > 0
    for b in range(room.size[i]):
        w = slots.basis[b]
        top = max(top, w + 1)
        slots.weight[w] = _limit(shared, block, i, slots.latents[w])
    top, full = _take_in(shared, block, room, i, top, floor, candidates)
    entered = _solve_on_slots(shared, block, room, i, top, floor, opens)
    for w in range(top):
        if abs(slots.sign[w]) != 1:
            slots.latents[w] = -1
            slots.sign[w] = 0
    return entered, full


@inlined
def _certify(shared: Shared, block: Block, room: Room, i: int) -> bool:
    """Stores the rounded codes, their objective, and their duality gap at the scaled residual
    before rounding; returns whether they are certified.
    """
    atoms = shared.atoms
    signal = block.signals[i]
    theta = room.theta[i]
    rest = room.atom
    scale = room.scale[i]
    support = block.support[i]
    values = block.values[i]
    size = room.size[i]
    copy(rest, signal)
    linear = 0.0
    slack = 0.0
    for b in range(size):
        w = room.basis[i, b]
        latent = room.latents[i, w]
        support[b] = latent
        values[b] = room.code[i, w]
        value = float64(values[b])
        limit = _limit(shared, block, i, latent)
        subtract(rest, value, atoms[latent])
        pull = dot(theta, atoms[latent]) * (1.0 if value > 0 else -1.0)
        linear += limit * abs(value)
        slack += abs(value) * max(limit - scale * pull, 0.0)
    for b in range(size, support.size):
        support[b] = -1
        values[b] = 0
    objective = 0.5 * dot(rest, rest) + linear
    subtract(rest, scale, theta)
    gap = 0.5 * dot(rest, rest) + slack
    block.objective[i] = objective
    block.gap[i] = gap
    # An objective below this cannot be told from zero; see `lasso_problem.is_converged`.
    least = 0.5 * (16 * shared.eps) ** 2 * dot(signal, signal)
    # Slightly less than the tolerance, so that the gap meets it when both are rounded.
    met = gap <= 0.999 * shared.tol * objective and objective < np.inf
    return met or objective <= least


@inlined
def _may_be_certified(
    shared: Shared, block: Block, room: Room, i: int, few: int
) -> bool:
    """Tells whether the gap may be met at the scale from coarse correlations, with those of the
    basis equal to their weights.
    """
    if room.num_close[i] > room.size[i] + 2 * few:
        return False
    theta = room.theta[i]
    linear = 0.0
    for b in range(room.size[i]):
        w = room.basis[i, b]
        limit = _limit(shared, block, i, room.latents[i, w])
        linear += limit * abs(room.code[i, w])
    energy = 0.5 * dot(theta, theta)
    short = 1 - room.scale[i]
    gap = short**2 * energy + short * linear
    return gap <= 0.25 * shared.tol * (energy + linear)


@helper
def _rescale(
    shared: Shared, block: Block, room: Room, i: int, close: np.ndarray
) -> float:
    """The scale for all atoms, from exact correlations of the close ones, since no other exceeds
    its weight; returns the largest excess.
    """
    scale = 1.0
    excess = 0.0
    for latent in close:
        if latent < 0:
            continue
        steep = _steep(dot(room.theta[i], shared.atoms[latent]), shared.nonneg)
        limit = _limit(shared, block, i, latent)
        if steep > limit:
            scale = min(scale, limit / steep)
            excess = max(excess, steep - limit)
    room.scale[i] = scale
    return excess


@helper
def _gather(shared: Shared, block: Block, room: Room, stage: int) -> int:
    """Lists the samples in progress, and copies their residuals beside each other; returns their
    number.
    """
    active = 0
    state = block.state
    for i in range(state.size):
        theta = room.theta[i]
        if stage == ROUGH and state[i] == OPEN and block.rounds[i] >= shared.limit - 1:
            state[i] = READY
        if state[i] != OPEN:
            continue
        room.who[active] = i
        room.num_leaders[i] = 0
        room.num_close[i] = 0
        room.scale[i] = 1.0
        room.bound[i] = 0.0
        if stage == ROUGH:
            copy(room.coarse_theta[active], theta)
            room.bound[i] = COARSE * (theta.size + 4) * length(theta) + TINY
        else:
            copy(room.exact_theta[active], theta)
        active += 1
    return active


@numba.njit(**OPTIONS)
def _correlate(
    shared: Shared, block: Block, room: Room, stage: int, active: int, few: int
) -> None:
    """Correlates the residuals with all atoms, a tile of them at a time; the product of the last
    tile stays.
    """
    num_latents = shared.atoms.shape[0]
    tile = room.exact_pull.shape[1]
    for begin in range(0, num_latents, tile):
        # The last tile overlaps the one before.
        first = min(begin, num_latents - tile)
        near = begin - first
        if stage == ROUGH:
            atoms = shared.coarse[first : first + tile]
            np.dot(room.coarse_theta[:active], atoms.T, room.coarse_pull[:active])
        else:
            exact = room.exact[:tile]
            for j in range(tile):
                copy(exact[j], shared.atoms[first + j])
            np.dot(room.exact_theta[:active], exact.T, room.exact_pull[:active])
        for n in range(active if stage != BEGIN else 0):
            i = room.who[n]
            size = room.size[i]
            most = min(room.leaders.shape[1], max(few, size // 2))
            if stage == ROUGH:
                pull = room.coarse_pull[n, near:]
                _collect(shared, block, room, i, pull, begin, most, size + 2 * few)
            else:
                excess = room.exact_pull[n, near:]
                _collect(shared, block, room, i, excess, begin, most, num_latents)


@inlined
def _is_certified(
    shared: Shared, block: Block, room: Room, i: int, stage: int, few: int
) -> bool:
    """Certifies a sample, if its gap may be met; stores the codes then."""
    if stage == ROUGH:
        if not _may_be_certified(shared, block, room, i, few):
            return False
        _rescale(shared, block, room, i, room.close[i, : room.num_close[i]])
    return stage != BEGIN and _certify(shared, block, room, i)


@inlined
def _next_state(
    shared: Shared, block: Block, room: Room, i: int, stage: int, top: int
) -> int:
    """Solves a sample on its slots, and says how it goes on."""
    leaders = room.leaders[i, : room.num_leaders[i]]
    entered, full = _advance(shared, block, room, i, top, leaders)
    if stage == BEGIN and shared.limit == 0:
        # No other atom may enter, so these alone bound the gap.
        excess = _rescale(shared, block, room, i, block.opening[i])
        done = _certify(shared, block, room, i)
        # The inverse was lost to rounding.
        if excess > LOST * length(block.signals[i]):
            return FULL
        return DONE if done else SETTLED
    if stage == BEGIN:
        return READY
    if full and room.size[i] > block.support.shape[1] - FEWEST:
        copy(block.support[i], room.latents[i])
        return FULL
    if entered == 0:
        return SETTLED if stage == EXACT else READY
    return OPEN


@entry
def code_block(shared: Shared, block: Block, room: Room) -> None:
    """Codes a block of samples."""
    state = block.state
    cold = block.opening.size == 0
    few = min(room.leaders.shape[1], FEWEST + shared.atoms.size // NUMBERS)
    for i in range(state.size):
        room.size[i] = 0
        room.latents[i, :] = -1
        copy(room.theta[i], block.signals[i])
    for stage in range(BEGIN, EXACT + 1):
        at_once = stage == BEGIN and shared.gram.size > 0 and cold
        # Without latents to open its slots, a sample begins with a round.
        idle = stage == BEGIN and cold and shared.limit > 0 and not at_once
        while not idle:
            active = _gather(shared, block, room, stage)
            if active == 0:
                break
            if stage != BEGIN or at_once:
                _correlate(shared, block, room, stage, active, few)
            for n in range(active):
                i = room.who[n]
                top = int64(0)
                block.rounds[i] += stage != BEGIN or at_once
                if _is_certified(shared, block, room, i, stage, few):
                    state[i] = DONE
                elif stage == EXACT and block.rounds[i] >= shared.limit:
                    state[i] = SETTLED
                else:
                    if at_once:
                        pull = room.exact_pull[n]
                        top = _solve_on_all(shared, block, room, i, pull)
                    elif stage == BEGIN:
                        top = _open(shared, block, room, i)
                    state[i] = _next_state(shared, block, room, i, stage, top)
        for i in range(state.size):
            if state[i] == READY:
                state[i] = OPEN
