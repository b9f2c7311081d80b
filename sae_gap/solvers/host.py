"""The certified coder of a CPU: threads take blocks of samples, each in one call of a loop of
`loops`.

The problem alone decides which samples share a block, so the bits of the codes do not depend on the
threads. XLA compiles and runs nothing here, so its programs may call this back.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy import finfo, flatnonzero, float64, zeros
from scipy.sparse import csr_array

from sae_gap.core import slices
from sae_gap.core.lasso_problem import dual_scale, is_converged, value_and_gap
from sae_gap.loops import block
from sae_gap.loops.block import MOST, Block, Shared
from sae_gap.loops.host import aligned_zeros
from sae_gap.runtime import on_cores, one_blas_thread
from sae_gap.solvers import default_slots, lengths, power_of_two

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


class Problem(NamedTuple):
    """A lasso in units where every signal and every atom is of order one.

    Signals are divided by powers of two `s_i` and atoms by `a_j`, which rounds nothing. A code is
    `z = z' s_i / a_j`, and the weight of sample i and atom j is `λ_i / (s_i a_j)`.
    """

    # (n, input_dim), not yet divided.
    signals: np.ndarray
    # (num_latents, input_dim).
    atoms: np.ndarray
    # (n,) λ, and s.
    lam: np.ndarray
    signal_scale: np.ndarray
    # (num_latents,) a.
    atom_scale: np.ndarray

    def block(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some signals in double precision, with the factor of their weights that is theirs."""
        scale = self.signal_scale[rows]
        row = self.lam[rows].astype(float64) / scale
        return self.signals[rows] / scale[:, None], row


class _Results(NamedTuple):
    """Results so far, in the units of the scaled problem."""

    # Rows, latents and values of codes that are not zero, in parts.
    codes: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    # (n,), as in `Solution`.
    objective: np.ndarray
    gap: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray

    def sparse(self, problem: Problem) -> csr_array:
        rows, latents, values = map(np.concatenate, zip(*self.codes, strict=True))
        shape = len(problem.signals), len(problem.atoms)
        return csr_array((values, (rows, latents)), shape)


def pose(
    signals: np.ndarray,
    dictionary: np.ndarray,
    lam: np.ndarray,
    used: np.ndarray | None,
) -> Problem:
    """The scaled problem, with all atoms or only those of the latents `used`."""
    atoms = zeros(dictionary.shape[::-1], dictionary.dtype)
    scale = np.ones(len(atoms))
    for place in slices(len(atoms) if used is None else len(used), FEW_ATOMS):
        chosen = place if used is None else used[place]
        columns = dictionary[:, chosen]
        rows = np.empty(columns.shape[::-1], columns.dtype)
        for dims in slices(len(columns), FEW_DIMS):
            rows[:, dims] = columns[dims].T
        length = _lengths(rows)
        scale[chosen] = length
        atoms[chosen] = rows if np.all(length == 1) else rows / length[:, None]
    top = power_of_two(np.abs(signals).max(axis=1)).astype(float64)
    weights = np.broadcast_to(lam[:, 0], len(signals))
    return Problem(signals, atoms, weights, top, scale)


def _lengths(atoms: np.ndarray) -> np.ndarray:
    """`lengths` in double precision, in a single pass if no square overflows or underflows."""
    squares = np.einsum("ij,ij->i", atoms, atoms)
    if np.all((squares > 2.0**-60) & (squares < 2.0**60)):
        return power_of_two(1.25 * np.sqrt(squares)).astype(float64)
    return lengths(atoms.astype(float64))


def wants_gram(num_latents: int, num_samples: int) -> bool:
    """True if the Gram matrix of all atoms is worth its `num_latents / n` products a sample."""
    return num_latents <= min(LARGEST_GRAM, 2 * num_samples)


def solve(
    signals: Any,
    dictionary: Any,
    lam: Any,
    support: Any,
    init: Any,
    tol: Any,
    max_iterations: Any,
    *,
    nonneg: bool,
    sparse: bool = False,
) -> tuple[Any, ...]:
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
      sparse: whether codes are a `csr_array`.

    Returns:
      The fields of a `Solution`, as arrays of NumPy; `iterations` count products with the
      dictionary.
    """
    signals = np.asarray(signals)
    dictionary = np.asarray(dictionary)
    n = len(signals)
    restricted = support is not None
    codes = support if restricted else init
    opening = _stored(zeros((n, 0)) if codes is None else codes)
    limit = 0 if restricted else max(1, int(max_iterations))
    used = flatnonzero(np.bincount(opening.indices)) if restricted else None
    problem = pose(signals, dictionary, np.asarray(lam), used)
    results = _Results(
        codes=[],
        objective=zeros(n),
        gap=zeros(n),
        converged=zeros(n, bool),
        iterations=zeros(n, int),
    )
    with one_blas_thread():
        shared = _share(problem, float(tol), limit, nonneg=nonneg, warm=opening.nnz > 0)
        _code_all(problem, shared, results, opening)
        if not restricted:
            _certify(problem, shared, results)
    return _unscaled(problem, results, sparse=sparse)


def _unscaled(problem: Problem, results: _Results, *, sparse: bool) -> tuple[Any, ...]:
    """The fields of the solution, in the units of the caller."""
    codes = results.sparse(problem).tocoo()
    scale = problem.signal_scale
    dtype = codes.dtype
    with np.errstate(over="ignore", under="ignore"):
        factor = scale[codes.row] / problem.atom_scale[codes.col]
        codes.data = (codes.data * factor).astype(dtype)
        objective = (results.objective * scale**2).astype(dtype)
        gap = (results.gap * scale**2).astype(dtype)
    # A code that overflows or underflows is not the certified one, and an objective that overflows
    # does not tell how good codes are.
    size = np.abs(codes.data)
    exact = (size >= finfo(dtype).tiny) & (size < np.inf)
    results.converged[codes.row[~exact]] = False
    converged = results.converged & np.isfinite(objective)
    rest = objective, gap, results.iterations.astype(np.int32), converged
    if sparse:
        return codes.tocsr(), *rest
    dense = aligned_zeros(codes.shape, dtype)
    dense[codes.row, codes.col] = codes.data
    return dense, *rest


def _share(
    problem: Problem, tol: float, limit: int, *, nonneg: bool, warm: bool
) -> Shared:
    """What all blocks share."""
    # Imported here: Numba takes half a second to load.
    from sae_gap.loops import active_set

    num_latents = len(problem.atoms)
    gram = zeros((0, 0))
    cold = limit > 1 and not warm and num_latents <= FEW_LATENTS
    if cold and wants_gram(num_latents, len(problem.signals)):
        atoms = problem.atoms.astype(float64, copy=False)
        gram = atoms @ atoms.T
    return Shared(
        atoms=problem.atoms,
        coarse=problem.atoms.astype(np.float32, copy=False),
        column=1 / problem.atom_scale,
        gram=gram,
        tol=tol,
        limit=min(limit, active_set.ROUNDS),
        nonneg=nonneg,
        eps=float(finfo(problem.atoms.dtype).eps),
    )


def _code_all(
    problem: Problem,
    shared: Shared,
    results: _Results,
    opening: csr_array,
) -> None:
    """Solves all samples; those that fill their slots continue together with twice as many."""
    from sae_gap.loops.active_set import FEWEST

    num_latents, input_dim = problem.atoms.shape
    # Any support of independent atoms fits, with new violators.
    most = min(input_dim, num_latents) + MOST
    slots = min(SLOTS, default_slots(input_dim, num_latents)) + 2 * FEWEST
    if not shared.limit:
        most = max(1, int(np.diff(opening.indptr).max()))
        slots = most
    slots = min(slots, most)
    pending = np.arange(len(problem.signals))
    first: Any = opening if opening.nnz else zeros((len(pending), 0), np.int64)
    while True:
        pending, first = _code(problem, shared, results, pending, first, slots)
        if slots == most or not len(pending):
            break
        slots = min(2 * slots, most)
    if not shared.limit:
        for rows in pending[:, None]:
            _by_cholesky(problem, shared, results, rows, opening)


def _code(
    problem: Problem,
    shared: Shared,
    results: _Results,
    rows: np.ndarray,
    opening: Any,
    slots: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Solves some samples block by block; returns those that fill their slots, and the latents to
    continue from.
    """
    from sae_gap.loops import active_set

    rooms: list[block.Room] = []
    places = _blocks(len(rows), slots, problem.atoms.size)
    # The first block is the largest.
    most = len(rows[places[0]])

    def work(place: slice) -> tuple[np.ndarray, np.ndarray]:
        some = rows[place]
        if isinstance(opening, np.ndarray):
            latents = opening[place]
        else:
            latents = _largest(opening[some], slots)
        room = rooms.pop() if rooms else block.room(shared, most, slots)
        part = _block(problem, results, some, latents, slots)
        active_set.code_block(shared, part, room)
        rooms.append(room)
        full = part.state == active_set.FULL
        _store(results, some, part, full, part.state == active_set.DONE)
        return some[full], part.support[full]

    parts = on_cores(work, places)
    pending, latents = map(np.concatenate, zip(*parts, strict=True))
    return pending, latents


def _block(
    problem: Problem,
    results: _Results,
    rows: np.ndarray,
    opening: np.ndarray,
    slots: int,
) -> Block:
    """The samples of some rows, without results."""
    signals, row = problem.block(rows)
    shape = len(rows), slots
    return Block(
        signals=signals,
        row=row,
        opening=opening,
        support=np.full(shape, -1),
        values=zeros(shape, problem.atoms.dtype),
        objective=zeros(len(rows)),
        gap=zeros(len(rows)),
        rounds=results.iterations[rows],
        state=zeros(len(rows), np.int64),
    )


def _store(
    results: _Results,
    rows: np.ndarray,
    part: Block,
    full: np.ndarray,
    done: np.ndarray,
) -> None:
    """Stores what a block has found; samples whose slots are full have no codes yet."""
    part.values[full] = 0
    part.gap[full] = np.inf
    _replace(results, rows, (part.objective, part.gap, done))
    results.iterations[rows] = part.rounds
    # In one dimension NumPy finds the entries several times as fast.
    place = flatnonzero(part.values != 0)
    row = rows[place // part.values.shape[1]]
    values = part.values.ravel()[place]
    results.codes.append((row, part.support.ravel()[place], values))


def _by_cholesky(
    problem: Problem,
    shared: Shared,
    results: _Results,
    rows: np.ndarray,
    support: csr_array,
) -> None:
    """Solves a sample on a support whose inverse is lost to rounding: non-negative least squares on
    the Cholesky factor of its Gram matrix with a ridge of a few roundings.
    """
    latents = support[rows].indices
    latents = latents[problem.atoms[latents].any(axis=1)]
    signal, weight = problem.block(rows)
    atoms = problem.atoms[latents].astype(float64)
    lam = weight / problem.atom_scale[latents]
    # A signed code is the difference of two non-negative ones.
    signs = [1] if shared.nonneg else [1, -1]
    sides = np.kron(np.array(signs)[:, None], atoms)
    ridge = 64 * len(sides) * finfo(float64).eps
    gram = sides @ sides.T + ridge * np.eye(len(sides))
    if not np.isfinite(gram).all():
        return
    lower = np.linalg.cholesky(gram)
    pull = sides @ signal[0] - np.tile(lam, len(signs))
    half = scipy.linalg.solve_triangular(lower, pull, lower=True)
    values = signs @ scipy.optimize.nnls(lower.T, half)[0].reshape(len(signs), -1)
    verdict = _certificate(signal, atoms, values[None], lam[None], shared)
    _replace(results, rows, verdict)
    on = flatnonzero(values)
    codes = values[on].astype(problem.atoms.dtype)
    results.codes.append((np.repeat(rows, len(on)), latents[on], codes))


def _certificate(
    signals: np.ndarray,
    atoms: np.ndarray,
    codes: np.ndarray,
    lam: np.ndarray,
    shared: Shared,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objective and the gap of codes at their residual, and whether that is small enough for
    codes of the problem's type.
    """
    rest = signals - codes @ atoms
    pull = rest @ atoms.T
    scale = dual_scale(pull, lam, nonneg=shared.nonneg)
    value, gap = value_and_gap(rest, codes, pull, lam, scale)
    dtype = shared.atoms.dtype
    good = is_converged(signals, value, gap, shared.tol, dtype)
    return value, gap, good


def _replace(
    results: _Results, rows: np.ndarray, verdict: Sequence[np.ndarray]
) -> None:
    """Replaces the certificates of some rows."""
    value, gap, good = verdict
    results.objective[rows] = value
    results.gap[rows] = gap
    results.converged[rows] = good


def _blocks(count: int, slots: int, numbers: int) -> list[slice]:
    """The samples of each block, of about equal sizes."""
    fewest = FEWEST_SAMPLES if numbers <= CACHE else MANY_SAMPLES
    most = min(max(-(-count // 4), fewest), MOST_SAMPLES, max(1, BLOCK // slots**2))
    size = -(-count // -(-count // most))
    return slices(count, size)


def _stored(codes: Any) -> csr_array:
    """The non-zero entries of an array. In one dimension NumPy finds them several times as fast."""
    codes = np.asarray(codes)
    places = flatnonzero(codes)
    ends = np.cumsum(np.count_nonzero(codes, axis=1))
    parts = codes.ravel()[places], places % max(1, codes.shape[1]), np.append(0, ends)
    return csr_array(parts, codes.shape)


def _largest(codes: csr_array, most: int) -> np.ndarray:
    """Latents of the `most` largest codes, padded with -1."""
    sizes = np.diff(codes.indptr)
    on = np.arange(sizes.max()) < sizes[:, None]
    latents = np.full(on.shape, -1)
    size = zeros(on.shape)
    latents[on] = codes.indices
    size[on] = abs(codes.data)
    if on.shape[1] > most:
        keep = np.argpartition(-size, most - 1, axis=1)[:, :most]
        latents = np.take_along_axis(latents, keep, axis=1)
    return latents


def _certify(problem: Problem, shared: Shared, results: _Results) -> None:
    """Certifies the rounded codes in double precision: in single it proves nothing where weights
    are near rounding.
    """
    open_rows = flatnonzero(~results.converged)
    if not len(open_rows):
        return
    atoms = problem.atoms.astype(float64, copy=False)
    codes = results.sparse(problem)
    # A weight above any correlation needs no larger value.
    largest = float(finfo(problem.atoms.dtype).max) ** 0.8
    step = min(MANY_SAMPLES, max(1, MANY_CODES // len(atoms)))
    for part in slices(len(open_rows), step):
        rows = open_rows[part]
        signals, row = problem.block(rows)
        lam = np.minimum(row[:, None] / problem.atom_scale, largest)
        values = codes[rows].toarray().astype(float64)
        verdict = _certificate(signals, atoms, values, lam, shared)
        # The active set's gap may be smaller, but it holds for codes before rounding.
        better = verdict[2] | (verdict[1] < results.gap[rows])
        _replace(results, rows[better], [field[better] for field in verdict])
