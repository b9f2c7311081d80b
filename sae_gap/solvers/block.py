"""The data of the compiled loop of the host's coder: the problem, a block of samples, and work
memory.

The loop takes sizes from the arrays, so that it is not compiled again when a constant of this file
changes.
"""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

# Atoms correlated at once: their correlations with a block of samples stay in cache.
TILE = 1024
# Correlations searched together for one above its weight.
CHUNK = 32
# Most violators that enter in a round.
MOST = 64


class Problem(NamedTuple):
    """The part of the problem that all samples share.

    Attributes:
      atoms: `(num_latents, input_dim)`, of about unit norm.
      coarse: the atoms in single precision.
      column: `(num_latents,)`, the factor of the weights that is the atom's; see `Block`.
      gram: `(num_latents, num_latents)` inner products of the atoms in double precision, or
        `(0, 0)`.
      at_once: whether samples without given latents first pivot on all atoms, by the Gram matrix.
      tol: duality gap to reach, relative to the objective.
      limit: products at most for a sample; with 0 its codes are restricted to the latents that open
        its working set, and certified on these alone.
      nonneg: whether codes are constrained to be non-negative.
      eps: machine epsilon of the codes' type.
    """

    atoms: ndarray
    coarse: ndarray
    column: ndarray
    gram: ndarray
    at_once: bool
    tol: float
    limit: int
    nonneg: bool
    eps: float


class Block(NamedTuple):
    """A block of samples, with inputs and results.

    Attributes:
      signals: `(n, input_dim)`, of order one, in double precision.
      row: `(n,)`, the weight of sample i and atom j is `row_i column_j`.
      begun: `(n, some)` latents that open the working sets, -1 for none.
      found: `(n, slots)` the latents of the codes, -1 for none; for a sample whose slots are full,
        the latents to continue from.
      values: `(n, slots)` the codes, rounded to their type.
      objective: `(n,)`.
      gap: `(n,)` duality gaps.
      rounds: `(n,)` products spent.
      state: `(n,)` state of each sample, zero at first.
    """

    signals: ndarray
    row: ndarray
    begun: ndarray
    found: ndarray
    values: ndarray
    objective: ndarray
    gap: ndarray
    rounds: ndarray
    state: ndarray


class Room(NamedTuple):
    """Work memory for up to n samples, reused by each block, since fresh memory is slow. Slots are
    free at -1.

    Attributes:
      theta: `(n, input_dim)` residuals of the codes before rounding.
      latents: `(n, slots)` the atoms in the slots.
      code: `(n, slots)` their codes.
      sign: `(n, slots)` the signs of codes in the basis, 0 elsewhere.
      inner: `(n, slots, slots)` the inner products of the atoms in the slots.
      basis: `(n, slots)` the slots of the basis.
      size: `(n,)` their number.
      inverse: `(n, slots, slots)` the inverse of the Gram matrix of the basis.
      leaders: `(n, MOST)` violators.
      leads: `(n, MOST)` by how much they exceed their weight.
      num_leaders: `(n,)` their number.
      bound: `(n,)` largest error of a coarse correlation.
      close: `(n, slots + 2 MOST)` atoms whose coarse correlation is within that bound of their
        weight, or above it.
      num_close: `(n,)` their number, which may exceed the room.
      scale: `(n,)` the factor that makes theta feasible.
      work: `(5, slots)`.
      atom: `(input_dim,)`.
      coarse_theta: `(n, input_dim)`.
      coarse_pull: `(n, tile)`.
      exact_theta: `(n, input_dim)`.
      exact_pull: `(n, tile)`.
      exact: `(at least tile and slots, input_dim)` atoms.
      who: `(n,)` unfinished samples.
      passed: `(CHUNK,)`.
      all: `(5, num_latents)`, for pivots on all atoms, if there is a Gram matrix.
      chosen: `(slots,)` the basis of these pivots.
      names: `(num_latents,)` the latents of these pivots: all, in their order.
    """

    theta: ndarray
    latents: ndarray
    code: ndarray
    sign: ndarray
    inner: ndarray
    basis: ndarray
    size: ndarray
    inverse: ndarray
    leaders: ndarray
    leads: ndarray
    num_leaders: ndarray
    bound: ndarray
    close: ndarray
    num_close: ndarray
    scale: ndarray
    work: ndarray
    atom: ndarray
    coarse_theta: ndarray
    coarse_pull: ndarray
    exact_theta: ndarray
    exact_pull: ndarray
    exact: ndarray
    who: ndarray
    passed: ndarray
    all: ndarray
    chosen: ndarray
    names: ndarray

    @classmethod
    def of(cls, problem: Problem, n: int, slots: int) -> "Room":
        """Allocates room for n samples with `slots` slots each."""
        num_latents, input_dim = problem.atoms.shape
        tile = min(TILE, num_latents)
        return cls(
            theta=np.empty((n, input_dim)),
            latents=np.empty((n, slots), np.int64),
            code=np.empty((n, slots)),
            sign=np.empty((n, slots)),
            # Zeros, since inner products of free slots are multiplied by zero and must be finite.
            inner=np.zeros((n, slots, slots)),
            basis=np.empty((n, slots), np.int64),
            size=np.empty(n, np.int64),
            inverse=np.empty((n, slots, slots)),
            leaders=np.empty((n, MOST), np.int64),
            leads=np.empty((n, MOST)),
            num_leaders=np.empty(n, np.int64),
            bound=np.empty(n),
            close=np.empty((n, slots + 2 * MOST), np.int64),
            num_close=np.empty(n, np.int64),
            scale=np.empty(n),
            work=np.empty((5, slots)),
            atom=np.empty(input_dim),
            coarse_theta=np.empty((n, input_dim), np.float32),
            coarse_pull=np.empty((n, tile), np.float32),
            exact_theta=np.empty((n, input_dim)),
            exact_pull=np.empty((n, tile)),
            exact=np.empty((max(tile, slots), input_dim)),
            who=np.empty(n, np.int64),
            passed=np.empty(CHUNK, np.int64),
            all=np.empty((5, len(problem.gram))),
            chosen=np.empty(slots, np.int64),
            names=np.arange(len(problem.gram)),
        )
