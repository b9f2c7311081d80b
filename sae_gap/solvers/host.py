"""The certified coder of a CPU: threads take blocks of samples, each in one call of a loop of
`loops`.

The problem alone decides which samples share a block, so the bits of the codes do not depend on the
threads. XLA compiles and runs nothing here, so its programs may call this back.
"""

import functools
from collections import namedtuple
from typing import Any

import numpy as np
import scipy.sparse

from sae_gap.core import lasso_problem, slices
from sae_gap.loops.host import aligned_zeros
from sae_gap.runtime import on_cores, one_blas_thread
from sae_gap.solvers import block, default_slots, lengths, power_of_two

# Samples of a block: few enough that every core has some, and enough for fast products. A
# dictionary of more numbers than CACHE is read from memory for each block, so its blocks have at
# least MANY_SAMPLES.
FEWEST_SAMPLES = 16
MANY_SAMPLES = 64
MOST_SAMPLES = 128
CACHE = 2**23
# Most slots at the start.
SLOTS = 256
# Floats of the working sets of a block.
BLOCK = 2**22
# Most atoms to pivot on at once, by their Gram matrix: one of more atoms does not pay.
FEW_LATENTS = 2**7
# Most atoms of a Gram matrix for iterations on all of them: with more it leaves the cache.
LARGEST_GRAM = 2048
# Atoms to scale at once, and dimensions to transpose at once, since memory is read by the page.
FEW_ATOMS = 2**10
FEW_DIMS = 2**7
# Codes in a batch of certificates.
MANY_CODES = 2**22


class Problem(namedtuple("Problem", "signals atoms lam signal_scale atom_scale")):
    """A lasso in units where every signal and every atom is of order one.

    Signals are divided by powers of two `s_i` and atoms by `a_j`, which rounds nothing. A code is
    `z = z' s_i / a_j`, and the weight of sample i and atom j is `λ_i / (s_i a_j)`. The atoms are
    rows, (num_latents, input_dim).
    """

    def block(self, rows):
        """Some signals in double precision, with the factor of their weights that is theirs."""
        scale = self.signal_scale[rows]
        return self.signals[rows] / scale[:, None], self.lam[rows].astype(
            np.float64
        ) / scale


def pose(signals, dictionary, lam, used):
    """The scaled problem, with all atoms or only those of the latents `used`."""
    atoms = np.zeros(dictionary.shape[::-1], dictionary.dtype)
    scale = np.ones(dictionary.shape[1])
    for chosen in slices(len(atoms) if used is None else len(used), FEW_ATOMS):
        chosen = chosen if used is None else used[chosen]
        given = dictionary[:, chosen]
        part = np.empty(given.shape[::-1], given.dtype)
        for dims in slices(len(given), FEW_DIMS):
            part[:, dims] = given[dims].T
        # Lengths whose squares neither overflow nor underflow take a single pass.
        squares = np.einsum("ij,ij->i", part, part)
        tame = np.all((squares > 2.0**-60) & (squares < 2.0**60))
        length = (
            power_of_two(1.25 * np.sqrt(squares))
            if tame
            else lengths(part.astype(np.float64))
        )
        scale[chosen] = length
        atoms[chosen] = (
            part / length[:, None].astype(np.float64) if np.any(length != 1) else part
        )
    top = power_of_two(np.abs(signals).max(axis=1)).astype(np.float64)
    return Problem(signals, atoms, np.broadcast_to(lam[:, 0], len(signals)), top, scale)


def wants_gram(num_latents: int, num_samples: int) -> bool:
    """True if the Gram matrix of all atoms is worth its `num_latents / n` products a sample."""
    return num_latents <= min(LARGEST_GRAM, 2 * num_samples)


def solve(
    signals,
    dictionary,
    lam,
    support,
    init,
    tol,
    max_iterations,
    *,
    nonneg,
    sparse=False,
):
    """Solves the lasso of `sparse_code` on the host.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, of any norm.
      lam: weights, `(1 or n, 1)`.
      support: the latents that may differ from zero, as the non-zero entries of an array
        `(n, num_latents)`; None for all. With a support `init` and `max_iterations` have no effect.
      init: `(n, num_latents)` codes whose support opens the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: products with the dictionary before it gives up on a sample, at least one.
      nonneg: whether codes are constrained to be non-negative.
      sparse: whether codes are a `scipy.sparse.csr_array`.

    Returns:
      The fields of a `Solution`, as arrays of NumPy; `iterations` count products with the
      dictionary.
    """
    signals, dictionary, lam = map(np.asarray, (signals, dictionary, lam))
    shape = (len(signals), dictionary.shape[1])
    restricted = support is not None
    given = support if restricted else np.zeros((shape[0], 0)) if init is None else init
    begun = _stored(given)
    limit = 0 if restricted else max(1, int(max_iterations))
    used = np.flatnonzero(np.bincount(begun.indices)) if restricted else None
    problem = pose(signals, dictionary, lam, used)
    # Type by type: integers, floats, booleans.
    zeros = (np.zeros(shape[0], kind) for kind in (int, float, float, bool))
    found = _Found([], *zeros)
    with one_blas_thread():
        _active_sets(problem, found, begun, float(tol), limit, nonneg=nonneg)
        if not restricted:
            _certify(problem, found, float(tol), nonneg=nonneg)
    return _unscaled(problem, found, sparse=sparse)


# Results so far, in the units of the scaled problem: rows, latents and values of codes that are not
# zero, in parts, and an array for each of the other fields of a `Solution`.
_Found = namedtuple("_Found", "codes iterations objective gap converged")


def _joined(found):
    """Rows, latents and values of all codes."""
    return map(np.concatenate, zip(*found.codes, strict=True))


def _sparse(problem, rows, latents, values):
    shape = len(problem.signals), len(problem.atoms)
    return scipy.sparse.csr_array((values, (rows, latents)), shape=shape)


def _unscaled(problem, found, *, sparse):
    """The fields of the solution, in the units of the caller."""
    (rows, latents, values) = _joined(found)
    scale = problem.signal_scale
    dtype = values.dtype
    with np.errstate(over="ignore", under="ignore"):
        values = (values * scale[rows] / problem.atom_scale[latents]).astype(dtype)
        objective, gap = (
            (each * scale**2).astype(dtype) for each in (found.objective, found.gap)
        )
    # A code that overflows or underflows is not the certified one, and an objective that overflows
    # does not tell how good codes are.
    size = np.abs(values)
    found.converged[rows[~((size >= np.finfo(dtype).tiny) & (size < np.inf))]] = False
    converged = found.converged & np.isfinite(objective)
    rest = objective, gap, found.iterations.astype(np.int32), converged
    if sparse:
        return _sparse(problem, rows, latents, values), *rest
    codes = aligned_zeros((len(problem.signals), len(problem.atoms)), dtype)
    codes[rows, latents] = values
    return codes, *rest


def _active_sets(problem, found, begun, tol, limit, *, nonneg):
    """Solves all samples block by block; samples that fill their slots continue together with twice
    as many.
    """
    # Imported here: Numba takes half a second to load.
    from sae_gap.loops import active_set

    num_latents, input_dim = problem.atoms.shape
    dtype = problem.atoms.dtype
    gram = np.zeros((0, 0))
    few = num_latents <= FEW_LATENTS and wants_gram(num_latents, len(problem.signals))
    if few and limit > 1 and not begun.nnz:
        atoms = problem.atoms.astype(np.float64, copy=False)
        gram = atoms @ atoms.T
    shared = (
        problem.atoms,
        problem.atoms.astype(np.float32, copy=False),
        1 / problem.atom_scale,
        gram,
        tol,
        min(limit, active_set.ROUNDS),
        nonneg,
        float(np.finfo(dtype).eps),
    )

    def work(part, slots):
        rows, latents = part
        latents = _largest(begun[rows], slots) if latents is None else latents
        size = len(rows)
        # The first block is the largest.
        room = rooms.pop() if rooms else block.room(shared, len(parts[0][0]), slots)
        given = (
            *shared,
            *problem.block(rows),
            latents,
            np.full((size, slots), -1),
            np.zeros((size, slots), dtype),
            *np.zeros((2, size)),
            found.iterations[rows],
            np.zeros(size, np.int64),
            *room,
        )
        own: Any = block.Job._make(given)
        active_set.code_block(own)
        rooms.append(room)
        full = own.state == active_set.FULL
        own.values[full], own.gap[full] = 0, np.inf
        found.objective[rows], found.gap[rows] = own.objective, own.gap
        found.iterations[rows], found.converged[rows] = (
            own.rounds,
            own.state == active_set.DONE,
        )
        # In one dimension NumPy finds the entries several times as fast.
        place = np.flatnonzero(own.values != 0)
        codes = (
            rows[place // slots],
            own.found.ravel()[place],
            own.values.ravel()[place],
        )
        return codes, rows[full], own.found[full]

    pending = np.arange(len(problem.signals))
    latents = None if begun.nnz else np.zeros((len(pending), 0), np.int64)
    slots = min(SLOTS, default_slots(input_dim, num_latents)) + 2 * active_set.FEWEST
    # Any support of independent atoms fits, with new violators.
    most = min(input_dim, num_latents) + block.MOST
    if not limit:
        slots = most = max(1, int(np.diff(begun.indptr).max()))
    slots = min(slots, most)
    while len(pending):
        rooms: list[Any] = []
        places = _blocks(len(pending), slots, problem.atoms.size)
        parts = [
            (pending[place], None if latents is None else latents[place])
            for place in places
        ]
        codes, full, again = zip(
            *on_cores(functools.partial(work, slots=slots), parts), strict=True
        )
        found.codes.extend(codes)
        pending = np.concatenate(full)
        latents = np.concatenate(again)
        if slots == most:
            break
        slots = min(2 * slots, most)
    for row in pending if not limit else ():
        _by_cholesky(problem, found, int(row), begun, tol, nonneg=nonneg)


def _by_cholesky(problem, found, row, support, tol, *, nonneg):
    """Solves a sample on a support whose inverse is lost to rounding: non-negative least squares on
    the Cholesky factor of its Gram matrix with a ridge of a few roundings.
    """
    latents = support.indices[slice(*support.indptr[row : row + 2])]
    latents = latents[problem.atoms[latents].any(axis=1)]
    signal, weight = problem.block(np.array([row]))
    atoms = problem.atoms[latents].astype(np.float64)
    lam = weight / problem.atom_scale[latents]
    # A signed code is the difference of two non-negative ones.
    both = np.kron([[1], [-1]][: 2 - nonneg], atoms)
    ridge = 64 * len(both) * np.finfo(np.float64).eps
    gram = both @ both.T + ridge * np.eye(len(both))
    if not np.isfinite(gram).all():
        return
    lower = np.linalg.cholesky(gram)
    toward = both @ signal[0] - np.tile(lam, 2 - nonneg)
    half = scipy.linalg.solve_triangular(lower, toward, lower=True)
    plus, *minus = np.split(scipy.optimize.nnls(lower.T, half)[0], 2 - nonneg)
    values = plus - sum(minus)
    on = np.flatnonzero(values)
    dtype = problem.atoms.dtype
    judged = _certificate(signal, atoms, values[None], lam[None], tol, nonneg, dtype)
    for field, value in zip(found[2:], judged, strict=True):
        field[row] = value[0]
    found.codes.append((np.full(len(on), row), latents[on], values[on].astype(dtype)))


def _certificate(signals, atoms, codes, lam, tol, nonneg, dtype):
    """The objective and the gap of codes at their residual, and whether that is small enough for
    codes of a type.
    """
    rest = signals - codes @ atoms
    pull = rest @ atoms.T
    scale = lasso_problem.dual_scale(pull, lam, nonneg=nonneg)
    value, gap = lasso_problem.value_and_gap(rest, codes, pull, lam, scale)
    return value, gap, lasso_problem.is_converged(signals, value, gap, tol, dtype)


def _blocks(count, slots, numbers):
    """The samples of each block, of about equal sizes."""
    fewest = FEWEST_SAMPLES if numbers <= CACHE else MANY_SAMPLES
    most = min(max(-(-count // 4), fewest), MOST_SAMPLES, max(1, BLOCK // slots**2))
    size = -(-count // -(-count // most))
    return slices(count, size)


def _stored(codes):
    """The non-zero entries of an array. In one dimension NumPy finds them several times as fast."""
    codes = np.asarray(codes)
    places = np.flatnonzero(codes)
    ends = np.cumsum(np.count_nonzero(codes, axis=1))
    parts = codes.ravel()[places], places % max(1, codes.shape[1]), np.append(0, ends)
    return scipy.sparse.csr_array(parts, codes.shape)


def _largest(codes, most):
    """Latents of the `most` largest codes, padded with -1."""
    sizes = np.diff(codes.indptr)
    on = np.arange(sizes.max()) < sizes[:, None]
    latents = np.full(on.shape, -1)
    size = np.zeros(on.shape)
    latents[on] = codes.indices
    size[on] = abs(codes.data)
    if on.shape[1] > most:
        keep = np.argpartition(-size, most - 1, axis=1)[:, :most]
        latents = np.take_along_axis(latents, keep, axis=1)
    return latents


def _certify(problem, found, tol, *, nonneg):
    """Certifies the rounded codes in double precision: in single it proves nothing where weights
    are near rounding.
    """
    left = np.flatnonzero(~found.converged)
    dtype = problem.atoms.dtype
    if not len(left):
        return
    atoms = problem.atoms.astype(np.float64, copy=False)
    codes = _sparse(problem, *_joined(found))
    step = min(MANY_SAMPLES, max(1, MANY_CODES // len(atoms)))
    for part in slices(len(left), step):
        rows = left[part]
        signals, row = problem.block(rows)
        # A weight above any correlation needs no larger value.
        lam = np.minimum(
            row[:, None] / problem.atom_scale, float(np.finfo(dtype).max) ** 0.8
        )
        values = codes[rows].toarray().astype(np.float64)
        value, gap, good = _certificate(signals, atoms, values, lam, tol, nonneg, dtype)
        # The active set's gap may be smaller, but it holds for codes before rounding.
        better = good | (gap < found.gap[rows])
        for field, new in zip(found[2:], (value, gap, good), strict=True):
            field[rows[better]] = new[better]
