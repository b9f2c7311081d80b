"""The data of the compiled loop of the host's coder: the problem, a block of samples, and work
memory.

The loop takes sizes from the arrays, so that it is not compiled again when a constant of this file
changes.
"""

from collections import namedtuple

import numpy as np

# Atoms correlated at once: their correlations with a block of samples stay in cache.
TILE = 1024
# Correlations searched together for one above its weight.
CHUNK = 32
# Most violators that enter in a round.
MOST = 64

# The part of the problem that all samples share:
#   atoms: `(num_latents, input_dim)`, of about unit norm.
#   coarse: the atoms in single precision.
#   column: `(num_latents,)`, the factor of the weights that is the atom's; see `BLOCK`.
#   gram: `(num_latents, num_latents)` inner products of the atoms in double precision, by which
#     samples without given latents first pivot on all atoms; or `(0, 0)`.
#   tol: duality gap to reach, relative to the objective.
#   limit: products at most for a sample; with 0 its codes are restricted to the latents that open
#     its working set, and certified on these alone.
#   nonneg: whether codes are constrained to be non-negative.
#   eps: machine epsilon of the codes' type.
SHARED = "atoms coarse column gram tol limit nonneg eps"

# A block of samples, with inputs and results:
#   signals: `(n, input_dim)`, of order one, in double precision.
#   row: `(n,)`, the weight of sample i and atom j is `row_i column_j`.
#   begun: `(n, some)` latents that open the working sets, -1 for none.
#   found: `(n, slots)` the latents of the codes, -1 for none; for a sample whose slots are full,
#     the latents to continue from.
#   values: `(n, slots)` the codes, rounded to their type.
#   objective, gap: `(n,)`.
#   rounds: `(n,)` products spent.
#   state: `(n,)` state of each sample, zero at first.
BLOCK = "signals row begun found values objective gap rounds state"

# Work memory for up to n samples, reused by each block: the type and the dimensions of each array.
# These are n samples, m dimensions of the signals, s slots, l most leaders, c close atoms, a tile
# of t atoms, e atoms in double precision, g of a Gram matrix, and k numbers searched together.
ROOM = {
    # Residuals of the codes before rounding.
    "theta": "f8 nm",
    # The atoms in the slots, -1 for a free one; their codes, the signs of codes in the basis, 0
    # elsewhere; the inner products of the atoms.
    "latents": "i8 ns",
    "code": "f8 ns",
    "sign": "f8 ns",
    "inner": "f8 nss",
    # The slots of the basis, their number, and the inverse of its Gram matrix.
    "basis": "i8 ns",
    "size": "i8 n",
    "inverse": "f8 nss",
    # Violators, by how much they exceed their weight, and their number.
    "leaders": "i8 nl",
    "leads": "f8 nl",
    "num_leaders": "i8 n",
    # The largest error of a coarse correlation; the atoms whose coarse correlation is within that
    # of their weight, or above it; their number, which may exceed the room.
    "bound": "f8 n",
    "close": "i8 nc",
    "num_close": "i8 n",
    # The factor that makes theta feasible.
    "scale": "f8 n",
    "work": "f8 5s",
    "atom": "f8 m",
    # Residuals beside each other and their correlations, in single and in double precision.
    "coarse_theta": "f4 nm",
    "coarse_pull": "f4 nt",
    "exact_theta": "f8 nm",
    "exact_pull": "f8 nt",
    "exact": "f8 em",
    # Unfinished samples.
    "who": "i8 n",
    "passed": "i8 k",
    # For pivots on all atoms: numbers of each, the basis, and their latents, of which none is -1.
    "all": "f8 5g",
    "chosen": "i8 s",
    "names": "i8 g",
}
# All that the loop takes.
Job = namedtuple("Job", [*SHARED.split(), *BLOCK.split(), *ROOM])  # type: ignore[misc]
Job.__doc__ = "What the loops read and write to code a block of samples."


def room(shared, n, slots):
    """The arrays of `ROOM` for n samples with `slots` slots each."""
    (num_latents, input_dim) = shared[0].shape
    few = len(shared[3])
    tile = min(TILE, num_latents)
    sizes = {
        "n": n,
        "m": input_dim,
        "s": slots,
        "l": MOST,
        "c": slots + 2 * MOST,
        "t": tile,
    }
    sizes |= {"e": max(tile, slots), "g": few, "k": CHUNK, "5": 5}
    arrays = {}
    for name, form in ROOM.items():
        kind, shape = form.split()
        arrays[name] = np.empty([sizes[letter] for letter in shape], kind)
    # Inner products of free slots are multiplied by zero and must be finite.
    arrays["inner"].fill(0)
    arrays["names"].fill(0)
    return tuple(arrays.values())
