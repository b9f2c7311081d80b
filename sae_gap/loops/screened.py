"""The screened pursuit, which is orthogonal matching pursuit on a screen of all atoms, a row at a
time, in the type of the rows.

Both solve by Cholesky factors `UᵀU = G` of Gram matrices. Row i of U, from its diagonal on, is that
of G less the sum of `U[h, i] U[h]` over the rows before, over its root.
"""

# Numba types these loops when it compiles them.
# mypy: ignore-errors

import numpy as np

from sae_gap.core.pursuit import DEPENDENT, EXCHANGES, LEFT, MOST, SLACK
from sae_gap.loops.routines import copy, dot, entry, first_largest, helper, subtract

# Rows of tables are whole numbers of vectors: single numbers at their ends would take most of the
# time.
LANES = 32
# The Gram matrix of candidates with more floats takes less time at once than by rows on demand.
FEW_FLOATS = 2**16


@helper
def _reduce(row, table, column, count, rows):
    """Subtracts `table[i, column] rows[i]` for the first i, four at a time: `row` is then read and
    written once for four.
    """
    for i in range(0, count - 3, 4):
        first = rows[i]
        second = rows[i + 1]
        third = rows[i + 2]
        fourth = rows[i + 3]
        a = table[i, column]
        b = table[i + 1, column]
        c = table[i + 2, column]
        d = table[i + 3, column]
        for n in range(row.size):
            row[n] -= a * first[n] + b * second[n] + c * third[n] + d * fourth[n]
    for i in range(count - count % 4, count):
        subtract(row, table[i, column], rows[i])


@helper
def _largest(values, count, found):
    """Puts the places of the largest values in `found`, and returns their number: less than `count`
    only if values are not finite.
    """
    low = high = values[0]
    for n in range(values.size):
        low = min(low, values[n])
        high = max(high, values[n])
    reach = values.size + 0 * low
    # Bisects for a limit that as many values reach; a sort takes several times as long.
    while reach != count:
        middle = low + (high - low) / 2
        if not low < middle < high:
            break
        reach = 0 * low
        for n in range(values.size):
            reach += values[n] >= middle
        if reach < count:
            high = middle
        else:
            low = middle
    size = np.int64(0)
    for n in range(values.size):
        # None are wanted, or more are equally large.
        if size == count:
            break
        # Without a branch, which would often be mispredicted.
        found[size] = n
        size += values[n] > low
    for n in range(values.size):
        if size < count and values[n] == low:
            found[size] = n
            size += 1
    return size


@helper
def _wide(size):
    """The size with spare places up to a whole number of vectors."""
    return -(-size // LANES) * LANES


@helper
def _solve(factor, size, right, codes):
    """Solves `UᵀU z = b`; b becomes the solution of `Uᵀ w = b`."""
    for i in range(size):
        value = right[i] / factor[i, i]
        subtract(right[: _wide(size)], value, factor[i])
        right[i] = value
    _back(factor, size, right, codes)


@helper
def _back(factor, size, right, codes):
    """Solves `U z = w`."""
    wide = _wide(size)
    codes[:wide] = 0
    for i in range(size - 1, -1, -1):
        total = right[i]
        for n in range(wide):
            total -= factor[i, n] * codes[n]
        codes[i] = total / factor[i, i]


@helper
def _factor(gram, few, factor):
    """The factor U of the Gram matrix of a few of the atoms; returns the smallest pivot."""
    least = gram[0, 0]
    for i in range(few.size):
        row = factor[i, : _wide(few.size)]
        for n in range(i, few.size):
            row[n] = gram[few[i], few[n]]
        _reduce(row, factor, i, i, factor)
        least = min(least, row[i])
        scale = 1 / np.sqrt(row[i])
        for n in range(i, few.size):
            row[n] *= scale
        row[:i], row[few.size :] = 0, 0
    return least


@helper
def _marked(on, few):
    """Lists the places that are on, and returns their number."""
    size = np.int64(0)
    for w in range(on.size):
        few[size] = w
        size += on[w]
    return size


@helper
def _nonnegative(ready, gram, toward, allowed, slack, on, codes, room):
    """Least squares over `z ≥ 0` on the allowed atoms, by block principal pivoting. `factor` is of
    these atoms if it is ready.
    """
    factor, right, found, places = room
    copy(on, allowed)
    for exchange in range(MOST + 1):
        few = places[: _marked(on, places)]
        if exchange or not ready:
            _factor(gram, few, factor)
        for n in range(few.size):
            right[n] = toward[few[n]]
        _solve(factor, few.size, right, found)
        codes[:] = 0
        for n in range(few.size):
            codes[few[n]] = found[n]
        last = np.int64(-1)
        for w in range(on.size):
            if on[w]:
                wrong = codes[w] < -slack
            else:
                wrong = (
                    allowed[w] and toward[w] - dot(gram[w, : on.size], codes) > slack
                )
            right[w] = wrong
            if wrong:
                last = w
        if last < 0 or exchange == MOST:
            break
        for w in range(on.size):
            if right[w] > 0 and (exchange < EXCHANGES or w == last):
                on[w] = not on[w]
    for w in range(on.size):
        on[w] = on[w] and codes[w] > 0
        codes[w] = codes[w] if on[w] else 0


@helper
def _eliminate(on, gram, codes, gains, room):
    """Backward elimination: drops the atom of least cost `z_j² / (G⁻¹)_jj` until none is left. The
    gain of an atom is the largest cost up to its own.

    The rows of `basis` are those of a Cholesky factor of G⁻¹ in the order of the drops. The room is
    of double precision: among very close atoms single precision would lose G⁻¹.
    """
    inverse, basis, values, left = room
    inverse[:] = 0
    values[:] = 0
    left[:] = 0
    drops = 0
    most = 0.0
    copy(values[: on.size], codes)
    for w in range(on.size):
        if on[w]:
            row = basis[w, : _wide(w + 1)]
            row[:] = 0
            _reduce(row, gram, w, w, inverse)
            row[w] = 1
            energy = dot(row, gram[w])
            for b in range(w + 1):
                subtract(inverse[b, : row.size], -row[b] / energy, row)
            drops += 1
    for w in range(on.size):
        left[w] = inverse[w, w]
    for step in range(drops):
        row = basis[step]
        for n in range(row.size):
            row[n] = -(values[n] ** 2) / left[n] if left[n] > LEFT else -np.inf
        out = first_largest(row)
        gains[out] = most = max(most, -row[out])
        copy(row, inverse[out])
        _reduce(row, basis, out, step, basis)
        subtract(values, values[out] / row[out], row)
        scale = 1 / np.sqrt(row[out])
        for n in range(row.size):
            row[n] *= scale
            left[n] -= row[n] ** 2


@helper
def _score(pull, free, signed):
    return (abs(pull) if signed else pull) if free else -np.inf


@entry
def _match(
    begun,
    steps,
    slack,
    signed,
    latents,
    whole,
    own,
    inner,
    pull,
    left,
    score,
    basis,
    values,
    places,
    gram,
):
    """Orthogonal matching pursuit among candidates, of which it takes the first `begun` first, and
    then those of the largest correlations, or |correlations| if `signed`.

    Row i of `basis` has the inner products of the candidates with vector i of an orthonormal basis
    of the chosen atoms, `values` those of the signal, `gram` those of the chosen atoms with each
    other. Those of the candidates are read off `whole` or `inner`, or computed where neither has
    entries. Returns the number of chosen atoms.
    """
    top = latents.size
    dependent = left.dtype.type(DEPENDENT)
    wide = _wide(top)
    for n in range(wide):
        score[n] = _score(pull[n], left[n] > dependent, signed)
    for step in range(steps):
        best = step if step < begun else first_largest(score[:wide])
        if step >= begun and not score[best] > slack:
            return step
        row = basis[step, :wide]
        if whole.size:
            products = whole[latents[best]]
            if begun == 0 and top == products.size:
                copy(row[:top], products)
            else:
                for n in range(top):
                    row[n] = products[latents[n]]
        elif inner.size:
            copy(row[: len(inner)], inner[best])
        else:
            np.dot(own, own[best], row[: len(own)])
        places[step] = best
        for j in range(step + 1):
            gram[step, j] = gram[j, step] = row[places[j]]
        _reduce(row, basis, best, step, basis)
        scale = 1 / np.sqrt(left[best])
        if step >= begun:
            values[step] = pull[best] * scale
        fall = values[step] if step >= begun else 0 * scale
        for n in range(wide):
            row[n] *= scale
            pull[n] -= fall * row[n]
            left[n] -= row[n] ** 2
            score[n] = _score(pull[n], left[n] > dependent, signed)
        left[best] = 0
        score[best] = -np.inf
    return steps


@entry
def pursue_block(
    signals,
    atoms,
    energy,
    whole,
    proposals,
    num_candidates,
    sizes,
    prunes,
    threshold,
    plain,
    signed,
    chosen,
    codes,
    gains,
):
    """The screened pursuit of `sae_gap.encoders.screened_pursuit` for a block of rows.

    Args:
      signals: `(n, input_dim)`, finite.
      atoms: of unit length or zero, `(num_latents, input_dim)`.
      energy: their squared lengths.
      whole: the Gram matrix of all atoms; without entries the loop multiplies atoms itself.
      proposals: `(n, num_latents)`, whose largest entries the first screen takes; without rows it
        takes correlations.
      num_candidates: candidates of a screen, at most num_latents.
      sizes: numbers of atoms after the screens, at most num_candidates.
      prunes: whether it computes gains, by backward elimination.
      threshold: the last least squares are without atoms of smaller gains.
      plain: whether it ends with the least squares of the last screen, and no sooner than with all
        its atoms, as orthogonal matching pursuit does; there are then no gains.
      signed: whether a step takes the largest |correlation|.
      chosen: `(n, size)`, the result.
      codes: `(n, size)`, the result; zero for an unused atom.
      gains: zeros, `(n, size)`; the result: the largest rise of the squared error up to the drop of
        each atom.
    """
    (num_samples, size) = chosen.shape
    (num_latents, dim) = atoms.shape
    kind = atoms.dtype
    rest = signals.copy()
    pull = np.empty((num_samples, num_latents), kind)
    values = np.empty((num_samples, size), kind)
    used = np.zeros(num_samples, np.int64)
    latents = np.empty(num_candidates, np.int64)
    seats = np.empty(size, np.int64)
    own = np.zeros((0 if whole.size else num_candidates, dim), kind)
    inner = np.empty((len(own) if own.size > FEW_FLOATS else 0, len(own)), kind)
    basis = np.zeros((size, _wide(num_candidates)), kind)
    work = np.zeros((3, _wide(num_candidates)), kind)
    tables = np.zeros((2, size, _wide(size)), kind)
    vectors = np.zeros((3, _wide(size)), kind)
    doubles = np.zeros((2, size, _wide(size)))
    pair = np.zeros((2, _wide(size)))
    gram = tables[0]
    factor = tables[1]
    flags = np.empty((2, size), np.bool_)
    toward = vectors[0]
    on = flags[0]
    kept = flags[1]
    room = factor, vectors[1], vectors[2], np.empty(size + 1, np.int64)
    for screen in range(sizes.size):
        np.dot(rest, atoms.T, pull)
        for i in range(num_samples):
            length = np.sqrt(dot(signals[i], signals[i]))
            begun = used[i]
            for b in range(begun):
                # Below all others.
                latents[b] = chosen[i, b]
                pull[i, chosen[i, b]] = -2 * length
            wanted = proposals[i] if screen == 0 and len(proposals) else pull[i]
            if begun == 0 and num_candidates == num_latents:
                top = num_latents
                for n in range(top):
                    latents[n] = n
            else:
                top = begun + _largest(wanted, num_candidates - begun, latents[begun:])
            work[1, top:] = 0
            for n in range(top):
                work[0, n], work[1, n] = pull[i, latents[n]], energy[latents[n]]
                if len(own):
                    copy(own[n], atoms[latents[n]])
            if len(inner):
                np.dot(own, own.T, inner)
            used[i] = end = _match(
                begun,
                sizes[screen],
                -np.inf if plain else SLACK * length,
                signed,
                latents[:top],
                whole,
                own,
                inner,
                work[0],
                work[1],
                work[2],
                basis,
                values[i],
                seats,
                gram,
            )
            for a in range(end):
                chosen[i, a] = latents[seats[a]]
                factor[a] = 0
                for b in range(a, end):
                    factor[a, b] = basis[a, seats[b]]
            if plain or screen < sizes.size - 1:
                _back(factor, end, values[i], toward)
                if plain:
                    copy(codes[i, :end], toward)
                copy(rest[i], signals[i])
                for a in range(end):
                    subtract(rest[i], toward[a], atoms[chosen[i, a]])
                continue
            toward[:] = 0
            on[:end] = True
            for a in range(end):
                subtract(toward[: _wide(end)], -values[i, a], factor[a])
            code = codes[i, :end]
            slack = SLACK * length
            _nonnegative(True, gram, toward, on[:end], slack, kept[:end], code, room)
            if prunes:
                spare = doubles[0], doubles[1], pair[0], pair[1]
                _eliminate(kept[:end], gram, code, gains[i, :end], spare)
            if threshold > 0:
                for a in range(end):
                    on[a] = gains[i, a] >= threshold
                _nonnegative(
                    False, gram, toward, on[:end], slack, kept[:end], code, room
                )
    for i in range(num_samples):
        chosen[i, used[i] :] = 0
        codes[i, used[i] :] = 0
