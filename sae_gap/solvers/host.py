"""The certified coder of a CPU: threads take blocks of samples, each in one call of a loop of
`loops`.

The problem alone decides which samples share a block, so the bits of the codes do not depend on the
threads. XLA compiles and runs nothing here, so its programs may call this back.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core import lasso_problem
from sae_gap.loops.host import aligned_zeros
from sae_gap.runtime import on_cores, one_blas_thread
from sae_gap.solvers import block, default_slots, lengths, power_of_two

# Samples of a block: few enough that every core has some, and enough for fast products. A
# dictionary of more numbers than CACHE is read from memory for each block, so its blocks have at
# least MANY_SAMPLES.
FEWEST_SAMPLES, MANY_SAMPLES, MOST_SAMPLES = 16, 64, 128
CACHE = 2**23
# Most slots at the start.
SLOTS = 256
# Floats of the working sets of a block.
BLOCK = 2**22
# Most atoms to pivot on at once: their Gram matrix stays in the cache of a core.
FEW_LATENTS = 2**7
# A Gram matrix of all atoms costs `num_latents / n` products, and leaves the cache with more atoms
# than this.
LARGEST_GRAM = 2048
# Atoms to scale at once, and dimensions to transpose at once, since memory is read by the page.
FEW_ATOMS, FEW_DIMS = 2**10, 2**7
# Numbers of atoms that a certificate takes at once, and codes in a batch of certificates.
FEW_NUMBERS, MANY_CODES = 2**17, 2**22


class Problem(NamedTuple):
    """A lasso in units where every signal and every atom is of order one.

    Signals are divided by powers of two `s_i` and atoms by `a_j`, which rounds nothing. A code is
    `z = z' s_i / a_j`, and the weight of sample i and atom j is `λ_i / (s_i a_j)`.
    """

    signals: Float[np.ndarray, "n input_dim"]
    atoms: Float[np.ndarray, "num_latents input_dim"]
    lam: Float[np.ndarray, " n"]
    signal_scale: Float[np.ndarray, " n"]
    atom_scale: Float[np.ndarray, " num_latents"]

    def block(self, rows: Int[np.ndarray, " some"]) -> tuple[np.ndarray, np.ndarray]:
        """Some signals in double precision, with the factor of their weights that is theirs."""
        scale = self.signal_scale[rows]
        return self.signals[rows] / scale[:, None], self.lam[rows].astype(np.float64) / scale


def pose(signals: np.ndarray, dictionary: np.ndarray, lam: np.ndarray, used: Any = None) -> Problem:
    """The scaled problem, with all atoms or only those of the latents `used`."""
    atoms, scale = np.empty(dictionary.shape[::-1], dictionary.dtype), np.ones(dictionary.shape[1])
    for begin in range(0, len(atoms) if used is None else len(used), FEW_ATOMS):
        own = slice(begin, begin + FEW_ATOMS)
        own = own if used is None else used[own]
        given = dictionary[:, own]
        part = atoms[own] if used is None else np.empty(given.shape[::-1], given.dtype)
        for dim in range(0, len(given), FEW_DIMS):
            part[:, dim : dim + FEW_DIMS] = given[dim : dim + FEW_DIMS].T
        # Lengths whose squares neither overflow nor underflow take a single pass.
        squares = np.einsum("ij,ij->i", part, part)
        tame = np.all((squares > 2.0**-60) & (squares < 2.0**60))
        length = power_of_two(1.25 * np.sqrt(squares)) if tame else lengths(part.astype(np.float64))
        if np.any(length != 1):
            part[:] = part / length[:, None].astype(np.float64)
        if used is not None:
            atoms[own] = part
        scale[own] = length
    top = power_of_two(np.abs(signals).max(axis=1)).astype(np.float64)
    return Problem(signals, atoms, np.broadcast_to(lam[:, 0], len(signals)), top, scale)


def wants_gram(num_latents: int, num_samples: int) -> bool:
    """True if the Gram matrix of all atoms is worth its products, and fits in cache."""
    return num_latents <= min(LARGEST_GRAM, 2 * num_samples)


def solve(
    signals: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim num_latents"],
    lam: Float[ArrayLike, "rows 1"],
    support: Any,
    init: Float[ArrayLike, "n num_latents"] | None,
    tol: float,
    max_iterations: int,
    *,
    nonneg: bool = True,
    sparse: bool = False,
) -> tuple[Any, ...]:
    """Solves the lasso of `sparse_code` on the host.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, of any norm.
      lam: weights, `(1 or n, 1)`.
      support: the latents that may differ from zero, as the non-zero entries of an array or a
        sparse array, `(n, num_latents)`; None for all. With a support `init` and `max_iterations`
        have no effect.
      init: `(n, num_latents)` codes whose support opens the working sets; None starts from zero.
      tol: duality gap to reach, relative to the objective.
      max_iterations: products with the dictionary before it gives up on a sample; with 0 it
        certifies the codes of `init` as given.
      nonneg: whether codes are constrained to be non-negative.
      sparse: whether codes are a `scipy.sparse.csr_array`.

    Returns:
      The fields of a `Solution`, as arrays of NumPy; `iterations` count products with the
      dictionary.
    """
    signals, dictionary, lam = map(np.asarray, (signals, dictionary, lam))
    init, tol, max_iterations = (
        None if init is None else np.asarray(init),
        float(tol),
        int(max_iterations),
    )
    support = None if support is None else _stored(support)
    used = None if support is None else np.flatnonzero(np.bincount(support.indices))
    problem = pose(signals, dictionary, lam, used)
    found = Found(len(signals), dictionary.shape[1], signals.dtype)
    with one_blas_thread():
        if support is not None:
            _active_sets(problem, found, support, tol, 0, nonneg=nonneg)
        elif max_iterations:
            _active_sets(problem, found, init, tol, max_iterations, nonneg=nonneg)
        elif init is not None:
            rows, latents = np.nonzero(init)
            values = init[rows, latents] / problem.signal_scale[rows] * problem.atom_scale[latents]
            found.put(rows, latents, values.astype(init.dtype))
        left = np.flatnonzero(~found.converged if support is None else [])
        step = min(MANY_SAMPLES, max(1, MANY_CODES // len(problem.atoms)))
        for begin in range(0, len(left), step):
            _certify(problem, found, left[begin : begin + step], tol, nonneg=nonneg)
    return found.unscaled(problem.signal_scale, problem.atom_scale, sparse=sparse)


class Found:
    """Results for each sample so far, in the units of the scaled problem."""

    def __init__(self, num_samples: int, num_latents: int, dtype: np.dtype):
        self.objective, self.gap = np.zeros(num_samples), np.full(num_samples, np.inf)
        self.iterations = np.zeros(num_samples, np.int64)
        self.converged = np.zeros(num_samples, bool)
        # Rows, latents and values of the codes that are not zero.
        self.codes = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, dtype)]
        self.shape = num_samples, num_latents

    def put(self, *codes: np.ndarray) -> None:
        """Adds codes that are not zero."""
        self.codes = [np.concatenate(both) for both in zip(self.codes, codes, strict=True)]

    def sparse(self) -> scipy.sparse.csr_array:
        """The codes so far, (n, num_latents)."""
        rows, latents, values = self.codes
        return scipy.sparse.csr_array((values, (rows, latents)), shape=self.shape)

    def unscaled(
        self, signal_scale: np.ndarray, atom_scale: np.ndarray, *, sparse: bool
    ) -> tuple[Any, ...]:
        """The fields of the solution, in the units of the caller."""
        (rows, latents, values), scale = self.codes, signal_scale
        dtype = values.dtype
        with np.errstate(over="ignore", under="ignore"):
            self.codes[2] = values = (values * scale[rows] / atom_scale[latents]).astype(dtype)
            certificates = [(each * scale**2).astype(dtype) for each in (self.objective, self.gap)]
        size = np.abs(values)
        # A code that overflows or underflows is not the certified one.
        self.converged[rows[~((size >= np.finfo(dtype).tiny) & (size < np.inf))]] = False
        # An objective that overflows does not tell how good codes are.
        self.converged &= np.isfinite(certificates).all(axis=0)
        rest = (*certificates, self.iterations.astype(np.int32), self.converged)
        if sparse:
            return self.sparse(), *rest
        codes = aligned_zeros(self.shape, dtype)
        codes[rows, latents] = values
        return codes, *rest


def _active_sets(problem, found, init, tol, max_iterations, *, nonneg) -> None:
    """Solves all samples block by block; samples that fill their slots continue together with twice
    as many.
    """
    # Imported here: Numba takes half a second to load.
    from sae_gap.loops import active_set

    num_latents, input_dim = problem.atoms.shape
    gram = np.zeros((0, 0))
    few = num_latents <= FEW_LATENTS and max_iterations > 1
    if few and init is None and wants_gram(num_latents, len(problem.signals)):
        atoms = problem.atoms.astype(np.float64, copy=False)
        gram = atoms @ atoms.T
    given = problem.atoms, problem.atoms.astype(np.float32, copy=False), 1 / problem.atom_scale
    eps = float(np.finfo(problem.atoms.dtype).eps)
    shared = block.Problem(*given, gram, tol, max_iterations, nonneg, eps)

    def work(part, slots):
        rows, begun = part
        if begun is None:
            begun = (
                np.zeros((len(rows), 0), np.int64) if init is None else _largest(init[rows], slots)
            )
        size = len(rows)
        found_latents, values = (
            np.full((size, slots), -1),
            np.zeros((size, slots), problem.atoms.dtype),
        )
        results = found_latents, values, *np.zeros((2, size)), found.iterations[rows]
        own = block.Block(*problem.block(rows), begun, *results, np.zeros(size, np.int64))
        # The first block is the largest.
        room = rooms.pop() if rooms else block.room(shared, len(parts[0][0]), slots)
        active_set.code_block(shared, own, room)
        rooms.append(room)
        full = own.state == active_set.FULL
        own.values[full], own.gap[full] = 0, np.inf
        found.objective[rows], found.gap[rows] = own.objective, own.gap
        found.iterations[rows], found.converged[rows] = own.rounds, own.state == active_set.DONE
        # In one dimension NumPy finds the entries several times as fast.
        place = np.flatnonzero(own.values != 0)
        codes = rows[place // slots], own.found.ravel()[place], own.values.ravel()[place]
        return *codes, rows[full], own.found[full]

    pending, begun = np.arange(len(problem.signals)), None
    first = min(SLOTS, default_slots(input_dim, num_latents)) + 2 * active_set.FEWEST
    # Any support of independent atoms fits, with new violators.
    most = min(input_dim, num_latents) + block.MOST
    if not max_iterations:
        first = most = max(1, int(np.diff(init.indptr).max()))
    slots = min(first, most)
    while True:
        rooms: list[block.Room] = []
        places = list(_blocks(len(pending), slots, problem.atoms.size))
        parts = [(pending[place], None if begun is None else begun[place]) for place in places]
        solved = on_cores(functools.partial(work, slots=slots), parts)
        *codes, pending, begun = map(np.concatenate, zip(*solved, strict=True))
        found.put(*codes)
        if not len(pending):
            return
        if slots == most:
            break
        slots = min(2 * slots, most)
    if not max_iterations:
        for row in pending:
            _by_cholesky(problem, found, int(row), init, tol, nonneg=nonneg)


def _by_cholesky(problem, found, row, support, tol, *, nonneg) -> None:
    """Solves a sample on a support whose inverse is lost to rounding: non-negative least squares on
    the Cholesky factor of its Gram matrix with a ridge of a few roundings.
    """
    latents = support.indices[slice(*support.indptr[row : row + 2])]
    latents = latents[problem.atoms[latents].any(axis=1)]
    (signal,), weight = problem.block(np.array([row]))
    # A signed code is the difference of two non-negative ones.
    atoms = np.kron([[1], [-1]][: 2 - nonneg], problem.atoms[latents].astype(np.float64))
    lam = np.tile(weight / problem.atom_scale[latents], 2 - nonneg)
    ridge = 64 * len(atoms) * np.finfo(np.float64).eps
    lower = np.linalg.cholesky(atoms @ atoms.T + ridge * np.eye(len(atoms)))
    toward = scipy.linalg.solve_triangular(lower, atoms @ signal - lam, lower=True)
    values = scipy.optimize.nnls(lower.T, toward)[0][None]
    rest = signal - values @ atoms
    pull = rest @ atoms.T
    scale = lasso_problem.dual_scale(pull, lam, nonneg=True)
    value, gap = lasso_problem.value_and_gap(rest, values, pull, lam[None], scale)
    found.objective[row], found.gap[row] = value[0], gap[0]
    found.converged[row] = lasso_problem.is_converged(
        signal[None], value, gap, tol, problem.atoms.dtype
    )[0]
    plus, *minus = np.split(values[0], 2 - nonneg)
    values = plus - sum(minus)
    on = np.flatnonzero(values)
    found.put(np.full(len(on), row), latents[on], values[on].astype(problem.atoms.dtype))


def _blocks(count: int, slots: int, numbers: int) -> Iterator[slice]:
    """The samples of each block, of about equal sizes."""
    fewest = FEWEST_SAMPLES if numbers <= CACHE else MANY_SAMPLES
    most = min(max(-(-count // 4), fewest), MOST_SAMPLES, max(1, BLOCK // slots**2))
    size = -(-count // -(-count // most))
    return (slice(begin, begin + size) for begin in range(0, count, size))


def _stored(support: Any) -> scipy.sparse.csr_array:
    """A support as a sparse array that stores exactly its non-zero entries."""
    if scipy.sparse.issparse(support):
        stored = scipy.sparse.csr_array(support)
        if not (stored.has_canonical_format and stored.data.all()):
            stored = stored.copy()
            stored.sum_duplicates()
            stored.eliminate_zeros()
        return stored
    on = np.asarray(support) != 0
    # In one dimension NumPy finds the entries several times as fast.
    places, ends = np.flatnonzero(on), np.cumsum(np.count_nonzero(on, axis=1))
    parts = np.ones(len(places), bool), places % on.shape[1], np.append(0, ends)
    return scipy.sparse.csr_array(parts, on.shape)


def _largest(codes: Any, most: int) -> Int[np.ndarray, "n some"]:
    """Latents of the `most` largest codes, padded with -1; all stored ones of a sparse array."""
    if not scipy.sparse.issparse(codes):
        if np.count_nonzero(codes, axis=1).max() > most:
            latents = np.argpartition(-np.abs(codes), most - 1, axis=1)[:, :most]
            return np.where(np.take_along_axis(codes, latents, axis=1) != 0, latents, -1)
        codes = scipy.sparse.csr_array(codes)
    sizes = np.diff(codes.indptr)
    begun = np.full((len(sizes), sizes.max()), -1)
    begun[np.arange(begun.shape[1]) < sizes[:, None]] = codes.indices
    return begun


def _certify(problem, found, rows, tol, *, nonneg) -> None:
    """Certifies the rounded codes in double precision: in single it proves nothing where weights
    are near rounding.
    """
    signals, row = problem.block(rows)
    # A weight above any correlation needs no larger value.
    lam = np.minimum(
        row[:, None] / problem.atom_scale, float(np.finfo(problem.atoms.dtype).max) ** 0.8
    )
    codes = found.sparse()[rows].toarray().astype(np.float64)
    step = max(1, FEW_NUMBERS // signals.shape[1])
    tiles = [slice(begin, begin + step) for begin in range(0, len(problem.atoms), step)]
    rest = signals - sum(codes[:, tile] @ problem.atoms[tile].astype(np.float64) for tile in tiles)
    pull = np.concatenate(
        [rest @ problem.atoms[tile].astype(np.float64).T for tile in tiles], axis=1
    )
    scale = lasso_problem.dual_scale(pull, lam, nonneg=nonneg)
    value, gap = lasso_problem.value_and_gap(rest, codes, pull, lam, scale)
    converged = lasso_problem.is_converged(signals, value, gap, tol, problem.atoms.dtype)
    # The active set's gap may be smaller, but it holds for codes before rounding.
    better = converged | (gap < found.gap[rows])
    rows = rows[better]
    found.objective[rows], found.gap[rows], found.converged[rows] = (
        value[better],
        gap[better],
        converged[better],
    )
