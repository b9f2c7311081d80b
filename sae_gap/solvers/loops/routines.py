"""What the loops share: how they are compiled, products of vectors, the inverse of a basis's Gram
matrix, and the pivots that solve on slots.
"""

import functools
from typing import Any, no_type_check

import numba
import numpy as np

from sae_gap.solvers.keeping import kept

# Sums may be reordered, but a NaN stays one.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}
# Compiles what Python calls, and keeps it.
entry = functools.partial(kept, **OPTIONS)
# Compiles what these loops alone call. What allocates nothing need not count who refers to an
# array, which would take a third of its time; what Python does not call needs no wrapper, which
# takes a seventh of the compiler's.
helper = numba.njit(
    **OPTIONS | {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
)
# Values that are looked through together for a larger one.
CHUNK = 32


@helper
@no_type_check
def dot(left, right):
    total = 0.0
    for i in range(left.size):
        total += left[i] * right[i]
    return total


@helper
@no_type_check
def subtract(total, factor, atom):
    for i in range(total.size):
        total[i] -= factor * atom[i]


@helper
@no_type_check
def copy(target, source):
    for i in range(target.size):
        target[i] = source[i]


@helper
@no_type_check
def border(inverse, slope, left, size):
    """The inverse with one more atom in the basis: `slope` times the others, and `left` of its
    energy outside their span.
    """
    for b in range(size):
        subtract(inverse[b, :size], -slope[b] / left, slope[:size])
        inverse[b, size] = inverse[size, b] = -slope[b] / left
    inverse[size, size] = 1 / left


@helper
@no_type_check
def drop(inverse, basis, size, out):
    """The inverse without one place of the basis, which the last one takes."""
    last, scale = size - 1, 1 / inverse[out, out]
    for b in range(size):
        if b != out:
            subtract(inverse[b, :size], inverse[b, out] * scale, inverse[out, :size])
    if out != last:
        basis[out] = basis[last]
        for b in range(last):
            inverse[out, b] = inverse[last, b]
            inverse[b, out] = inverse[b, last]
        inverse[out, out] = inverse[last, last]
    return last


@helper
@no_type_check
def first_largest(values):
    """The place of the largest value, the first of equal ones."""
    place = np.int64(0)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        # Without a branch this is a few instructions for many values.
        above = np.int64(0)
        for j in range(part.size):
            above += np.int64(1) if part[j] > values[place] else np.int64(0)
        for j in range(part.size if above else 0):
            if part[j] > values[place]:
                place = start + j
    return place


@helper
@no_type_check
def _move(rows, w, change, top, code, pull, spare, inner):
    """Change a code, and the correlations of all slots with it, or take a note of the change."""
    code[w] += change
    if rows:
        subtract(pull[:top], change, inner[w, :top])
    else:
        spare[w] += change


@helper
@no_type_check
def pivot(
    nonneg,
    floor,
    close,
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
):
    """Solve the lasso on the slots from the basis at hand; returns its size, and how many atoms
    entered it.

    `pull` is kept up to date for slots outside the basis: by rows where these are many, and else at
    the end of a pivot. Correlations of the basis equal their weights. An atom depends on those of
    the basis where at most the share `close` of its energy is outside their span. `spare`, `cross`
    and `slope` are room.
    """
    entered = 0
    while top > 0 and entered < 4 * latents.size and size < basis.size:
        # The atom outside the basis that most exceeds its weight.
        for w in range(top):
            above = (pull[w] if nonneg else abs(pull[w])) - weight[w]
            spare[w] = above if (latents[w] >= 0) & (sign[w] == 0) else 0.0
        best = first_largest(spare[:top])
        excess = spare[best]
        if not excess > floor:
            break
        # From here on it holds by how much each code has moved, if the correlations follow at the
        # end.
        rows = 2 * size < top
        for w in range(top):
            spare[w] = 0
        way = 1.0 if nonneg or pull[best] > 0 else -1.0
        for b in range(size):
            cross[b] = inner[best, basis[b]]
        for b in range(size):
            slope[b] = dot(inverse[b, :size], cross[:size])
        left = inner[best, best] - dot(cross[:size], slope[:size])
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
                w = basis[b]
                # Where several vanish at once, rounding must not take the others below zero.
                change = sign[w] * max(-way * step * slope[b] * sign[w], -code[w] * sign[w])
                _move(rows, w, change, top, code, pull, spare, inner)
            _move(rows, best, way * step, top, code, pull, spare, inner)
            excess -= left * step
            if out < 0:
                break
            gone = basis[out]
            _move(rows, gone, -code[gone], top, code, pull, spare, inner)
            # So it is, and was at the beginning of the pivot.
            pull[gone], sign[gone] = sign[gone] * weight[gone], 0
            ratio = slope[out] / inverse[out, out]
            left += slope[out] * ratio
            for b in range(size):
                if b != out:
                    slope[b] -= inverse[b, out] * ratio
            size = drop(inverse, basis, size, out)
            slope[out] = slope[size]
        if not step < np.inf:
            # Within the span of the basis and with nothing to take the place of: only rounding
            # wants it.
            _move(rows, best, -code[best], top, code, pull, spare, inner)
            sign[best] = 2
        for w in range(0 if rows else top):
            if latents[w] >= 0 and sign[w] == 0:
                pull[w] -= dot(spare[:top], inner[w, :top])
        if sign[best] == 2:
            continue
        border(inverse, slope, left, size)
        basis[size], sign[best] = best, way
        size += 1
        entered += 1
    return size, entered
