"""Common routines of the loops: compilation, products of vectors, the inverse of a basis's Gram
matrix, and the pivots that solve on slots.
"""

import contextlib
import functools
import hashlib
import inspect
import pathlib
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numpy import inf, int64


def kept(function, **options):
    """A function compiled by `numba.njit`, cached beside its file or in the user's cache, if one of
    them can be written.

    It is compiled again when a file of its folder changes, since it may call functions of these, or
    a number that its own file imports, since Numba compiles numbers in.

    Args:
      function: the function to compile.
      **options: options of `numba.njit`.

    Returns:
      The compiled function.
    """
    compiled = numba.njit(**options)(function)
    with contextlib.suppress(RuntimeError):
        compiled._cache = _Cache(function)
    return compiled


class _Cache(FunctionCache):
    def __init__(self, function):
        super().__init__(function)
        # Numba itself checks only the function's own file.
        files = sorted(pathlib.Path(inspect.getfile(function)).parent.glob("*.py"))
        numbers = [
            each
            for each in function.__globals__.items()
            if isinstance(each[1], int | float)
        ]
        parts = repr(numbers).encode(), *(file.read_bytes() for file in files)
        stamp = hashlib.sha256(b"\0".join(parts)).hexdigest()
        self._cache_file = IndexDataCacheFile(
            self._cache_path, self._impl.filename_base, stamp
        )


# Allows reordered sums, but keeps NaNs.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}
# Compiles functions for Python, and caches them.
entry: Any = functools.partial(kept, **OPTIONS)
# Compiles functions that only these loops call. They allocate nothing, so reference counts, a third
# of the run time, can go; Python does not call them, so wrappers, a seventh of the compile time,
# can go.
HELPER = OPTIONS | {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
helper = numba.njit(**HELPER)
# Passing on a block and its room takes longer than many a step.
inlined = numba.njit(**HELPER, forceinline=True)
# Values searched together for a larger one.
CHUNK = 32


@helper
def dot(left, right):
    total = 0.0
    for i in range(left.size):
        total += left[i] * right[i]
    return total


@helper
def length(vector):
    """The Euclidean norm, in double precision."""
    return np.sqrt(dot(vector, vector))


@helper
def subtract(total, factor, atom):
    for i in range(total.size):
        total[i] -= factor * atom[i]


@helper
def copy(target, source):
    for i in range(target.size):
        target[i] = source[i]


@helper
def border(inverse, slope, left, size):
    """Extends the inverse by an atom with `left` of its energy outside the span of the others, the
    rest being `slope` times these.
    """
    for b in range(size):
        subtract(inverse[b, :size], -slope[b] / left, slope[:size])
        inverse[b, size] = inverse[size, b] = -slope[b] / left
    inverse[size, size] = 1 / left


@helper
def drop(inverse, basis, size, out):
    """Removes one place of the basis from the inverse; the last place moves there."""
    last = size - 1
    scale = 1 / inverse[out, out]
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
def first_largest(values):
    """The place of the largest value, the first on ties."""
    place = int64(0)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        # Without a branch this takes few instructions for many values.
        above = int64(0)
        for j in range(part.size):
            above += int64(1) if part[j] > values[place] else int64(0)
        for j in range(part.size if above else 0):
            if part[j] > values[place]:
                place = start + j
    return place


class Slots(NamedTuple):
    """A few atoms of a sample, and work memory, for `pivot`."""

    # The atoms in the slots, -1 for an empty one.
    latents: np.ndarray
    # Their correlations with the residual, their weights, and their codes.
    pull: np.ndarray
    weight: np.ndarray
    code: np.ndarray
    # The signs of codes in the basis, 0 elsewhere.
    sign: np.ndarray
    # The inner products of the atoms.
    inner: np.ndarray
    # The slots of the basis, and the inverse of its Gram matrix.
    basis: np.ndarray
    inverse: np.ndarray
    # Work memory of a number for each slot.
    spare: np.ndarray
    cross: np.ndarray
    slope: np.ndarray


@helper
def _move(slots, rows, w, change, top):
    """Changes a code, and updates the correlations of all slots or notes the change."""
    slots.code[w] += change
    if rows:
        subtract(slots.pull[:top], change, slots.inner[w, :top])
    else:
        slots.spare[w] += change


@helper
def pivot(slots, top, size, nonneg, floor, close):
    """Solves the lasso on the slots from the current basis; returns its size, and how many atoms
    entered it.

    `pull` is updated for slots outside the basis: by rows if these are many, or else at the end of
    a pivot. Correlations of the basis equal their weights. An atom depends on the basis if at most
    the share `close` of its energy is outside its span.

    Args:
      slots: those of a sample.
      top: slots in use, the first ones.
      size: of the basis.
      nonneg: whether codes are non-negative.
      floor: an excess of a correlation above its weight up to this is rounding.
      close: as above.
    """
    latents, pull, weight, code, sign, inner, basis, inverse, spare, cross, slope = (
        slots
    )
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
        # `spare` now holds how much each code has moved, if correlations are updated only at the
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
            # The step at which its correlation meets its weight, or a code of the basis vanishes.
            step = inf
            out = int64(-1)
            if left > close * inner[best, best]:
                step = max(excess, 0.0) / left
            for b in range(size):
                fall = way * slope[b] * sign[basis[b]]
                if fall > 0:
                    until = abs(code[basis[b]]) / fall
                    if until < step:
                        step = until
                        out = b
            if not step < inf:
                break
            for b in range(size):
                w = basis[b]
                # If several vanish at once, rounding must not take the others below zero.
                change = sign[w] * max(
                    -way * step * slope[b] * sign[w], -code[w] * sign[w]
                )
                _move(slots, rows, w, change, top)
            _move(slots, rows, best, way * step, top)
            excess -= left * step
            if out < 0:
                break
            gone = basis[out]
            _move(slots, rows, gone, -code[gone], top)
            # The leaving atom's correlation equals its weight, as for all of the basis.
            pull[gone] = sign[gone] * weight[gone]
            sign[gone] = 0
            ratio = slope[out] / inverse[out, out]
            left += slope[out] * ratio
            for b in range(size):
                if b != out:
                    slope[b] -= inverse[b, out] * ratio
            size = drop(inverse, basis, size, out)
            slope[out] = slope[size]
        if not step < inf:
            # In the span of the basis and without an atom to replace: only rounding makes it exceed
            # its weight.
            _move(slots, rows, best, -code[best], top)
            sign[best] = 2
        for w in range(0 if rows else top):
            if latents[w] >= 0 and sign[w] == 0:
                pull[w] -= dot(spare[:top], inner[w, :top])
        if sign[best] == 2:
            continue
        border(inverse, slope, left, size)
        basis[size] = best
        sign[best] = way
        size += 1
        entered += 1
    return size, entered
