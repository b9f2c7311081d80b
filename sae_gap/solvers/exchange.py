"""k-sparse codes by non-negative orthogonal matching pursuit, improved by exchanges of atoms.

An exchange swaps an atom of the support for another one, or adds one while fewer than k are in use.
Non-negative least squares then fits all values again, and atoms with a value of zero leave. The
search ends when none of the 32 most promising exchanges gains.

For a sample y and a support S with Gram matrix G, least squares z and residual r, an atom a has

    c = aᵀ r,    h = G⁻¹ D_Sᵀ a,    p = 1 - hᵀ D_Sᵀ a,

where p is its energy outside the span of S. If a replaces the atom j of S, and values of any sign
are fitted again, the squared error falls by exactly

    (c + z_j h_j / [G⁻¹]_jj)² / (p + h_j² / [G⁻¹]_jj) - z_j² / [G⁻¹]_jj.

Over `z ≥ 0` it falls by at most this, with zero for the first term if the squared number is
negative. The exchanges with the largest such bound are fitted, in descending order, until one
gains. This needs `D_Sᵀ a` for all atoms; an exchange changes one row of it, by one product with the
dictionary.
"""

from typing import Any

import numpy as np
import scipy
from jax.typing import ArrayLike

from sae_gap.core.checks import check_integer
from sae_gap.core.matching import unit_columns
from sae_gap.runtime.cores import on_cores, one_blas_thread
from sae_gap.solvers.least_squares import by_gram
from sae_gap.solvers.problem import check_problem, power_of_two

# Inner products of atoms held at once: with more samples at a time, products with the dictionary
# wait less for memory.
ROOM = 2**27
# Atoms whose promise is computed at once, in cache.
TILE = 2**13
# Atoms to exchange before all are searched again, exchanges to fit before a sample ends, and the
# most exchanges for each of its atoms.
POOL, TRIED, MOST = 256, 32, 20
# Share of a signal's energy that an exchange must gain.
LEAST = 1e-6
# Keeps the Cholesky factor of equal atoms finite.
RIDGE = 1e-7


@one_blas_thread()
def exchange_pursuit(
    signals: ArrayLike,
    dictionary: ArrayLike,
    num_atoms: int,
    *,
    start: ArrayLike | scipy.sparse.sparray | None = None,
    exchanges: bool = True,
) -> scipy.sparse.csr_array:
    """Least squares over `z ≥ 0` on at most k atoms a sample, chosen by exchanges as the module
    says.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents); atoms are scaled to unit norm first.
      num_atoms: k.
      start: codes, dense or sparse, (n, num_latents), whose supports of at most k atoms are the
        start; None starts with non-negative orthogonal matching pursuit: each step takes the atom
        with the largest correlation with the residual of non-negative least squares.
      exchanges: False returns the start without exchanges.

    Returns:
      Codes on the unit atoms, (n, num_latents).

    Raises:
      ValueError: an argument has a wrong shape or value.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit", Asilomar.
      Miller (2002), "Subset selection in regression", for exchanges.
    """
    targets, columns = map(np.asarray, check_problem(signals, dictionary, 0.0)[:2])
    # Single precision holds signals of order one.
    scale = power_of_two(np.abs(targets).max(axis=1, keepdims=True))
    targets = (targets / scale).astype(np.float32)
    atoms = np.ascontiguousarray(unit_columns(columns).T, np.float32)
    check_integer("num_atoms", num_atoms, least=1, most=min(atoms.shape))
    given: Any = None if start is None else scipy.sparse.csr_array(start, copy=True) != 0
    if given is not None:
        shape, count = (len(targets), len(atoms)), np.diff(given.indptr).max(initial=0)
        if given.shape != shape or count > num_atoms:
            raise ValueError(
                f"start must be codes of shape (n, num_latents) = {shape} on at most num_atoms = "
                f"{num_atoms} atoms a row, but its shape is {given.shape} and a row has up to "
                f"{count}; give codes of these signals on fewer atoms."
            )
    size = max(1, ROOM // (num_atoms * len(atoms)))
    parts = []
    for begin in range(0, len(targets), size):
        rows = slice(begin, begin + size)
        block = _Block(targets[rows], atoms, num_atoms)
        if given is None:
            block.pursue()
        else:
            block.open(given[rows])
        if exchanges:
            block.exchange()
        parts.append(block.codes())
    return scipy.sparse.csr_array(scipy.sparse.vstack(parts).multiply(scale))


class _Block:
    """Samples coded together, so that products with the dictionary have many rows.

    Each has k slots. A slot holds an atom with its code and its inner products with all atoms; a
    slot with a code of zero is free.
    """

    def __init__(self, targets, atoms, num_atoms):
        self.atoms, self.pull = atoms, targets @ atoms.T
        self.least = LEAST * np.einsum("nm,nm->n", targets, targets, dtype=np.float64)
        self.inner = np.zeros((len(targets), num_atoms, len(atoms)), np.float32)
        self.places = np.full((len(targets), num_atoms), -1)
        self.values = np.zeros(self.places.shape)

    def codes(self):
        rows, slots = np.nonzero(self.values)
        parts = self.values[rows, slots].astype(np.float32), (rows, self.places[rows, slots])
        return scipy.sparse.csr_array(parts, self.pull.shape)

    def take(self, rows, slots, atoms):
        """Puts atoms into slots and fits the values of these rows again."""
        self.places[rows, slots] = atoms
        self.inner[rows, slots] = self.atoms[atoms] @ self.atoms.T
        for i in np.unique(rows):
            used = np.flatnonzero(self.places[i] >= 0)
            chosen = self.places[i, used]
            self.values[i, used] = by_gram(self._gram(chosen), self.pull[i, chosen], RIDGE)

    def open(self, start):
        rows, atoms = start.nonzero()
        self.take(rows, np.arange(len(rows)) - start.indptr[rows], atoms)

    def pursue(self):
        """Adds one atom each step, even if its code becomes zero later."""
        rows = np.arange(len(self.pull))
        for slot in range(self.places.shape[1]):
            score = np.stack(on_cores(self._left, list(rows)))
            score[np.arange(len(rows))[:, None], self.places[rows, :slot]] = -np.inf
            best = score.argmax(axis=1)
            # The residual of a fully fitted signal is only rounding.
            fine = score.max(axis=1) > self.least[rows] ** 0.5
            rows, best = rows[fine], best[fine]
            if not len(rows):
                return
            self.take(rows, np.full(len(rows), slot), best)

    def exchange(self):
        rows = np.arange(len(self.pull))
        for _ in range(MOST):
            found = on_cores(self._improve, list(rows))
            changed = [(i, new) for i, new in zip(rows, found, strict=True) if new is not None]
            if not changed:
                return
            places = []
            for i, new in changed:
                stays = np.isin(self.places[i], new) & (self.values[i] > 0)
                enter = np.setdiff1d(new, self.places[i, stays])
                slots = np.flatnonzero(~stays)
                self.places[i, slots], self.values[i, slots], self.inner[i, slots] = -1, 0, 0
                places += [(i, *pair) for pair in zip(slots, enter, strict=False)]
            self.take(*map(np.array, zip(*places, strict=True)))
            rows = np.array([i for i, _ in changed])

    def _gram(self, chosen):
        """The Gram matrix in double precision: in single, rounding would exceed the ridge."""
        atoms = self.atoms[chosen].astype(float)
        return atoms @ atoms.T

    def _left(self, i):
        """The correlations of all atoms with the residual."""
        end = self.values[i].nonzero()[0].max(initial=-1) + 1
        return self.pull[i] - self.values[i, :end].astype(np.float32) @ self.inner[i, :end]

    def _improve(self, i):
        """The support that exchanges find; None if none gains.

        Only the most promising atoms take part: they are few, so that all their inner products are
        at hand.
        """
        used, least = np.flatnonzero(self.values[i]), self.least[i]
        chosen, values = self.places[i, used], self.values[i, used]
        size, left, inverse = self.places.shape[1], self._left(i), _inverse(self._gram(chosen))
        promise, room = np.empty_like(left), len(used) < size
        for begin in range(0, len(left), TILE):
            tile = slice(begin, begin + TILE)
            inner = self.inner[i, used, tile]
            promise[tile] = _promise(inverse, inner, values, left[tile], room).max(axis=0)
        if not promise.max() > least:
            return None
        best = np.argpartition(-promise, min(POOL, len(promise)) - 1)[:POOL]
        pool = np.append(chosen, np.setdiff1d(best, chosen))
        gram, toward = self._gram(pool), self.pull[i, pool].astype(float)
        support = np.arange(len(used))
        values = by_gram(gram[np.ix_(support, support)], toward[support], RIDGE)
        for _ in range(MOST * size):
            left = toward - values @ gram[support]
            room, inverse = len(support) < size, _inverse(gram[np.ix_(support, support)])
            promise = _promise(inverse, gram[support], values, left, room)
            promise[:, support] = 0
            tried = np.argsort(-promise, axis=None)[:TRIED]
            for pair in tried[promise.ravel()[tried] > least]:
                drop, atom = divmod(pair, len(pool))
                # The last row stands for a free place.
                new = np.append(support[np.arange(len(support)) != drop], atom)
                fitted = by_gram(gram[np.ix_(new, new)], toward[new], RIDGE)
                if toward[new] @ fitted > toward[support] @ values + least:
                    support, values = new[fitted > 0], fitted[fitted > 0]
                    break
            else:
                break
        return None if (support < len(used)).all() else pool[support]


def _promise(inverse, inner, values, left, room):
    """Most that each atom can take from the squared error in each place, (s + 1, n); the last place
    is free. Entries of atoms in the support mean nothing.

    Args:
      inverse: inverse of the Gram matrix of the support, (s, s).
      inner: inner products of the support with all atoms, (s, n).
      values: the least squares of the support, (s,).
      left: correlations with the residual, (n,).
      room: whether a place is free.
    """
    # Numba takes half a second to load.
    from sae_gap.loops.exchanging import promise_all

    inverse, values = inverse.astype(inner.dtype), values.astype(inner.dtype)
    found = np.empty((len(inner) + 1, len(left)), inner.dtype)
    promise_all(inverse @ inner, inner, np.diagonal(inverse).copy(), values, left, room, found)
    return found


def _inverse(gram):
    return np.linalg.inv(gram + RIDGE * np.eye(len(gram)))
