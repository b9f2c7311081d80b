"""The records of the certified coder's compiled loop: the problem, a block of samples, work memory.

The loop takes sizes from the arrays, so that it is not compiled again when a constant of this file
changes.
"""

from typing import NamedTuple

import numpy as np
from numpy import empty, float32, zeros

# Atoms correlated at once: their correlations with a block of samples stay in cache.
TILE = 1024
# Correlations searched together for one above its weight.
CHUNK = 32
# Most violators that enter in a round.
MOST = 64


class Shared(NamedTuple):
    """The problem and the settings, which all blocks share."""

    # (num_latents, input_dim), of about unit norm, and the same in single precision.
    atoms: np.ndarray
    coarse: np.ndarray
    # (num_latents,), the factor of the weights that is the atom's; see `Block.row`.
    column: np.ndarray
    # (num_latents, num_latents) inner products of the atoms in double precision, by which samples
    # without given latents first pivot on all atoms; or (0, 0).
    gram: np.ndarray
    # The duality gap to reach, relative to the objective.
    tol: float
    # Products at most for a sample. With 0 its codes are restricted to the latents that open its
    # working set, and certified on these alone.
    limit: int
    # Whether codes are constrained to be non-negative.
    nonneg: bool
    # Machine epsilon of the codes' type.
    eps: float


class Block(NamedTuple):
    """The inputs and the results of n samples."""

    # (n, input_dim), of order one, in double precision.
    signals: np.ndarray
    # (n,); the weight of sample i and atom j is `row_i column_j`.
    row: np.ndarray
    # (n, some) latents that open the working sets, -1 for none.
    opening: np.ndarray
    # (n, slots) the latents of the codes, -1 for none; for a sample whose slots are full, the
    # latents to continue from.
    support: np.ndarray
    # (n, slots) the codes, rounded to their type.
    values: np.ndarray
    # (n,) each.
    objective: np.ndarray
    gap: np.ndarray
    # (n,) products spent.
    rounds: np.ndarray
    # (n,) the state of each sample, zero at first.
    state: np.ndarray


class Room(NamedTuple):
    """Work memory for up to n samples, reused by each block."""

    # (n, input_dim) residuals of the codes before rounding.
    theta: np.ndarray
    # (n, slots) the atoms in the slots, -1 for a free one; their codes; the signs of codes in the
    # basis, 0 elsewhere.
    latents: np.ndarray
    code: np.ndarray
    sign: np.ndarray
    # (n, slots, slots) the inner products of these atoms.
    inner: np.ndarray
    # (n, slots) the slots of the basis, (n,) their number, and (n, slots, slots) the inverse of its
    # Gram matrix.
    basis: np.ndarray
    size: np.ndarray
    inverse: np.ndarray
    # (n, MOST) violators, by how much each exceeds its weight, and (n,) their number.
    leaders: np.ndarray
    leads: np.ndarray
    num_leaders: np.ndarray
    # (n,) the largest error of a coarse correlation.
    bound: np.ndarray
    # (n, slots + 2 MOST) the atoms whose coarse correlation is within that of their weight, or
    # above it, and (n,) their number, which may exceed the room.
    close: np.ndarray
    num_close: np.ndarray
    # (n,) the factor that makes theta feasible.
    scale: np.ndarray
    # (5, slots), and (input_dim,).
    work: np.ndarray
    atom: np.ndarray
    # (n, input_dim) residuals beside each other and (n, tile) their correlations, in single and in
    # double precision; and some atoms in double precision.
    coarse_theta: np.ndarray
    coarse_pull: np.ndarray
    exact_theta: np.ndarray
    exact_pull: np.ndarray
    exact: np.ndarray
    # (n,) unfinished samples.
    who: np.ndarray
    # (CHUNK,) places of correlations above their weights.
    passed: np.ndarray
    # For pivots on all atoms: (5, num_latents) numbers of each, (slots,) the basis, and
    # (num_latents,) their latents, of which none is -1.
    all: np.ndarray
    chosen: np.ndarray
    names: np.ndarray


def room(shared: Shared, n: int, slots: int) -> Room:
    """Work memory for n samples with `slots` slots each."""
    num_latents, input_dim = shared.atoms.shape
    few = len(shared.gram)
    tile = min(TILE, num_latents)
    by_slot = n, slots
    by_pair = n, slots, slots
    by_dim = n, input_dim
    by_atom = n, tile
    by_leader = n, MOST
    return Room(
        theta=empty(by_dim),
        latents=empty(by_slot, int),
        code=empty(by_slot),
        sign=empty(by_slot),
        # Inner products of free slots are multiplied by zero and must be finite.
        inner=zeros(by_pair),
        basis=empty(by_slot, int),
        size=empty(n, int),
        inverse=empty(by_pair),
        leaders=empty(by_leader, int),
        leads=empty(by_leader),
        num_leaders=empty(n, int),
        bound=empty(n),
        close=empty((n, slots + 2 * MOST), int),
        num_close=empty(n, int),
        scale=empty(n),
        work=empty((5, slots)),
        atom=empty(input_dim),
        coarse_theta=empty(by_dim, float32),
        coarse_pull=empty(by_atom, float32),
        exact_theta=empty(by_dim),
        exact_pull=empty(by_atom),
        exact=empty((max(tile, slots), input_dim)),
        who=empty(n, int),
        passed=empty(CHUNK, int),
        all=empty((5, few)),
        chosen=empty(slots, int),
        names=zeros(few, int),
    )
