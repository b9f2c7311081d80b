"""The screened pursuit for a CPU, a row at a time, in the type of the rows: `core.pursuit` lists
its forms.

Both solve by Cholesky factors `UᵀU = G` of Gram matrices. Row i of U, from its diagonal on, is that
of G less the sum of `U[h, i] U[h]` over the rows before, over its root.
"""

# Numba types these loops when it compiles them.
# mypy: ignore-errors

from typing import NamedTuple

import numpy as np

from sae_gap.core.pursuit import DEPENDENT, EXCHANGES, LEFT, MOST, SLACK
from sae_gap.loops.routines import copy, dot, entry, first_largest, helper, subtract

# Rows of tables are whole numbers of vectors: single numbers at their ends would take most of the
# time.
LANES = 32
# The Gram matrix of candidates with more floats takes less time at once than by rows on demand.
FEW_FLOATS = 2**16


class Problem(NamedTuple):
    """What all rows share.

    Attributes:
      atoms: of unit length or zero, (num_latents, input_dim).
      energy: their squared lengths.
      gram: the Gram matrix of all atoms; without entries the loops multiply atoms themselves.
      num_candidates: candidates of a screen, at most num_latents.
      sizes: numbers of atoms after the screens, at most num_candidates.
      prunes: whether it computes gains, by backward elimination.
      least: the last least squares are without atoms of smaller gains.
      plain: whether it ends with the least squares of the last screen, and no sooner than with all
        its atoms, as orthogonal matching pursuit does; there are then no gains.
      signed: whether a step takes the largest |correlation|.
    """

    atoms: np.ndarray
    energy: np.ndarray
    gram: np.ndarray
    num_candidates: int
    sizes: np.ndarray
    prunes: bool
    least: float
    plain: bool
    signed: bool


class Result(NamedTuple):
    """What a pursuit writes.

    Attributes:
      chosen: the atoms, (n, size).
      codes: (n, size); zero for an unused atom.
      gains: zeros, (n, size), for the largest rise of the squared error up to the drop of each.
    """

    chosen: np.ndarray
    codes: np.ndarray
    gains: np.ndarray


class Candidates(NamedTuple):
    """The candidates of a screen, and work memory for `omp`.

    Attributes:
      latents: their numbers.
      atoms: the atoms, if there is no Gram matrix of all.
      gram: their Gram matrix, if it is computed at once.
      pull: their correlations with the residual.
      left: their energy outside the span of the chosen atoms.
      score: by which a step chooses.
      basis: the inner products of the candidates with an orthonormal basis of the chosen atoms, a
        row for each vector of the basis.
    """

    latents: np.ndarray
    atoms: np.ndarray
    gram: np.ndarray
    pull: np.ndarray
    left: np.ndarray
    score: np.ndarray
    basis: np.ndarray


class Support(NamedTuple):
    """The chosen atoms of a row, and work memory for their least squares.

    Attributes:
      places: their places among the candidates.
      gram: their Gram matrix G.
      toward: their correlations with the signal.
      factor: a Cholesky factor U of G, or of a part of it.
      right: a right-hand side.
      values: a solution.
      few: the places of atoms that are on.
      allowed: whether an atom may be used.
      on: whether it is.
    """

    places: np.ndarray
    gram: np.ndarray
    toward: np.ndarray
    factor: np.ndarray
    right: np.ndarray
    values: np.ndarray
    few: np.ndarray
    allowed: np.ndarray
    on: np.ndarray


class Elimination(NamedTuple):
    """Work memory of `prune`, of double precision: among very close atoms single precision would
    lose G⁻¹.

    Attributes:
      inverse: G⁻¹.
      basis: a Cholesky factor of it, a row for each drop.
      values: the least squares z.
      left: the diagonal of G⁻¹ of the atoms that are left.
    """

    inverse: np.ndarray
    basis: np.ndarray
    values: np.ndarray
    left: np.ndarray


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
def k_largest(values, count, found):
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
def nonnegative_least_squares(support, codes, slack, ready):
    """Least squares over `z ≥ 0` on the allowed atoms, by block principal pivoting. `factor` is of
    these atoms if it is ready.
    """
    gram = support.gram
    toward = support.toward
    wrong = support.right
    values = support.values
    allowed = support.allowed[: codes.size]
    on = support.on[: codes.size]
    copy(on, allowed)
    for exchange in range(MOST + 1):
        few = support.few[: _marked(on, support.few)]
        if exchange or not ready:
            _factor(gram, few, support.factor)
        for n in range(few.size):
            support.right[n] = toward[few[n]]
        _solve(support.factor, few.size, support.right, values)
        codes[:] = 0
        for n in range(few.size):
            codes[few[n]] = values[n]
        last = np.int64(-1)
        for w in range(on.size):
            if on[w]:
                swap = codes[w] < -slack
            else:
                excess = toward[w] - dot(gram[w, : on.size], codes)
                swap = allowed[w] and excess > slack
            wrong[w] = swap
            if swap:
                last = w
        if last < 0 or exchange == MOST:
            break
        for w in range(on.size):
            if wrong[w] > 0 and (exchange < EXCHANGES or w == last):
                on[w] = not on[w]
    for w in range(on.size):
        on[w] = on[w] and codes[w] > 0
        codes[w] = codes[w] if on[w] else 0


@helper
def _invert(support, elimination, size):
    """Inverts the Gram matrix of the atoms that are on; returns their number."""
    inverse = elimination.inverse
    inverse[:] = 0
    count = 0
    for w in range(size):
        if support.on[w]:
            row = elimination.basis[w, : _wide(w + 1)]
            row[:] = 0
            _reduce(row, support.gram, w, w, inverse)
            row[w] = 1
            energy = dot(row, support.gram[w])
            for b in range(w + 1):
                subtract(inverse[b, : row.size], -row[b] / energy, row)
            count += 1
    return count


@helper
def prune(support, elimination, codes, gains):
    """Backward elimination: drops the atom of least cost `z_j² / (G⁻¹)_jj` until none is left. The
    gain of an atom is the largest cost up to its own.
    """
    inverse, basis, values, left = elimination
    values[:] = 0
    left[:] = 0
    copy(values[: codes.size], codes)
    drops = _invert(support, elimination, codes.size)
    for w in range(codes.size):
        left[w] = inverse[w, w]
    most = 0.0
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
def _multiply(problem, candidates, best, top, in_order, row):
    """The inner products of the candidates with one of them. All atoms may be candidates, in their
    order.
    """
    if problem.gram.size:
        products = problem.gram[candidates.latents[best]]
        if in_order:
            copy(row[:top], products)
        else:
            for n in range(top):
                row[n] = products[candidates.latents[n]]
    elif candidates.gram.size:
        copy(row[: len(candidates.gram)], candidates.gram[best])
    else:
        np.dot(candidates.atoms, candidates.atoms[best], row[: len(candidates.atoms)])


@entry
def omp(problem, candidates, support, values, top, begun, end, slack):
    """Orthogonal matching pursuit among candidates, of which it takes the first `begun` first, and
    then those of the largest correlations, or |correlations| if `signed`.

    Args:
      problem: what all rows share.
      candidates: those of the row.
      support: whose `places` and `gram` it fills.
      values: the inner products of the signal with the basis.
      top: the number of candidates.
      begun: atoms chosen by earlier screens.
      end: atoms to choose.
      slack: a smaller correlation is rounding.

    Returns:
      The number of chosen atoms.
    """
    pull = candidates.pull
    left = candidates.left
    score = candidates.score
    signed = problem.signed
    dependent = left.dtype.type(DEPENDENT)
    wide = _wide(top)
    in_order = begun == 0 and top == len(problem.atoms)
    for n in range(wide):
        score[n] = _score(pull[n], left[n] > dependent, signed)
    for step in range(end):
        best = step if step < begun else first_largest(score[:wide])
        if step >= begun and not score[best] > slack:
            return step
        row = candidates.basis[step, :wide]
        _multiply(problem, candidates, best, top, in_order, row)
        support.places[step] = best
        for j in range(step + 1):
            inner = row[support.places[j]]
            support.gram[step, j] = inner
            support.gram[j, step] = inner
        _reduce(row, candidates.basis, best, step, candidates.basis)
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
    return end


@entry
def _propose(problem, candidates, pull, wanted, chosen):
    """Makes the chosen atoms the first candidates, and those of the largest scores the others.

    Args:
      problem: what all rows share.
      candidates: to fill.
      pull: the correlations of all atoms with the residual; lowered for chosen atoms.
      wanted: the scores, `pull` itself or others.
      chosen: atoms chosen by earlier screens.

    Returns:
      The number of candidates.
    """
    latents = candidates.latents
    begun = chosen.size
    copy(latents[:begun], chosen)
    if begun == 0 and latents.size == pull.size:
        top = latents.size
        for n in range(top):
            latents[n] = n
    else:
        top = begun + k_largest(wanted, latents.size - begun, latents[begun:])
    candidates.left[top:] = 0
    for n in range(top):
        candidates.pull[n] = pull[latents[n]]
        candidates.left[n] = problem.energy[latents[n]]
        if len(candidates.atoms):
            copy(candidates.atoms[n], problem.atoms[latents[n]])
    if len(candidates.gram):
        np.dot(candidates.atoms, candidates.atoms.T, candidates.gram)
    return top


@helper
def _finish(problem, support, elimination, values, codes, gains, slack):
    """The last least squares, over `z ≥ 0`, and those without atoms of small gains."""
    end = codes.size
    toward = support.toward
    toward[:] = 0
    support.allowed[:end] = True
    for a in range(end):
        subtract(toward[: _wide(end)], -values[a], support.factor[a])
    nonnegative_least_squares(support, codes, slack, True)
    if problem.prunes:
        prune(support, elimination, codes, gains)
    if problem.least > 0:
        for a in range(end):
            support.allowed[a] = gains[a] >= problem.least
        nonnegative_least_squares(support, codes, slack, False)


@entry
def _room_of_candidates(problem, size):
    """Room for the candidates of a row, of which `size` are chosen."""
    count = problem.num_candidates
    kind = problem.atoms.dtype
    dim = problem.atoms.shape[1]
    atoms = np.zeros((0 if problem.gram.size else count, dim), kind)
    at_once = len(atoms) if atoms.size > FEW_FLOATS else 0
    table = np.zeros((size + 3, _wide(count)), kind)
    return Candidates(
        latents=np.empty(count, np.int64),
        atoms=atoms,
        gram=np.empty((at_once, len(atoms)), kind),
        pull=table[0],
        left=table[1],
        score=table[2],
        basis=table[3:],
    )


@entry
def pursue_block(signals, proposals, problem, result):
    """The screened pursuit of `sae_gap.encoders.screened_pursuit` for a block of rows.

    Args:
      signals: `(n, input_dim)`, finite.
      proposals: `(n, num_latents)`, whose largest entries the first screen takes; without rows it
        takes correlations.
      problem: what all rows share.
      result: what it fills.
    """
    atoms = problem.atoms
    sizes = problem.sizes
    num_samples, size = result.chosen.shape
    kind = atoms.dtype
    rest = signals.copy()
    pull = np.empty((num_samples, len(atoms)), kind)
    values = np.empty((num_samples, size), kind)
    used = np.zeros(num_samples, np.int64)
    candidates = _room_of_candidates(problem, size)
    tables = np.zeros((2, size, _wide(size)), kind)
    vectors = np.zeros((3, _wide(size)), kind)
    flags = np.empty((2, size), np.bool_)
    support = Support(
        places=np.empty(size, np.int64),
        gram=tables[0],
        factor=tables[1],
        toward=vectors[0],
        right=vectors[1],
        values=vectors[2],
        few=np.empty(size + 1, np.int64),
        allowed=flags[0],
        on=flags[1],
    )
    doubles = np.zeros((2, size, _wide(size)))
    pair = np.zeros((2, _wide(size)))
    elimination = Elimination(
        inverse=doubles[0], basis=doubles[1], values=pair[0], left=pair[1]
    )
    for screen in range(sizes.size):
        np.dot(rest, atoms.T, pull)
        for i in range(num_samples):
            length = np.sqrt(dot(signals[i], signals[i]))
            slack = SLACK * length
            chosen = result.chosen[i]
            for b in range(used[i]):
                # Below all others.
                pull[i, chosen[b]] = -2 * length
            wanted = proposals[i] if screen == 0 and len(proposals) else pull[i]
            top = _propose(problem, candidates, pull[i], wanted, chosen[: used[i]])
            used[i] = end = omp(
                problem,
                candidates,
                support,
                values[i],
                top=top,
                begun=used[i],
                end=sizes[screen],
                slack=-np.inf if problem.plain else slack,
            )
            for a in range(end):
                chosen[a] = candidates.latents[support.places[a]]
                support.factor[a] = 0
                for b in range(a, end):
                    support.factor[a, b] = candidates.basis[a, support.places[b]]
            codes = result.codes[i, :end]
            if problem.plain or screen < sizes.size - 1:
                _back(support.factor, end, values[i], support.toward)
                if problem.plain:
                    copy(codes, support.toward)
                copy(rest[i], signals[i])
                for a in range(end):
                    subtract(rest[i], support.toward[a], atoms[chosen[a]])
            else:
                gains = result.gains[i, :end]
                _finish(problem, support, elimination, values[i], codes, gains, slack)
    for i in range(num_samples):
        result.chosen[i, used[i] :] = 0
        result.codes[i, used[i] :] = 0
