import jax
import numpy as np
import pytest
from scipy.optimize import nnls

from sae_gap.solvers import pivoting

solve = jax.jit(pivoting.solve, static_argnames="rank")


@pytest.mark.parametrize("slots", [1, 5, 16])
def test_equals_non_negative_least_squares(slots):
    rng = np.random.default_rng(slots)
    atoms = rng.normal(size=(30, slots + 4, slots))
    signals = rng.normal(size=(30, slots + 4))
    gram = np.einsum("nmi,nmj->nij", atoms, atoms).astype(np.float32)
    linear = np.einsum("nmi,nm->ni", atoms, signals).astype(np.float32)
    want = [nnls(*each)[0] for each in zip(atoms, signals, strict=True)]
    np.testing.assert_allclose(solve(gram, linear, rank=slots, max_pivots=200), want, atol=2e-4)
    # Broken off, they are feasible.
    codes = np.asarray(solve(gram, linear, rank=slots, max_pivots=2))
    assert codes.min() >= 0 and np.count_nonzero(codes, axis=1).max() == min(slots, 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_full_basis_makes_room_for_better_atoms(seed):
    """With more atoms than dimensions, the last to enter depend on the basis, and each takes the
    place of another.
    """
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(5, 16)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=0)
    signal = atoms @ rng.exponential(size=16).astype(np.float32)
    weight = np.float32(1e-3)
    gram, linear = atoms.T @ atoms, atoms.T @ signal - weight
    codes = np.asarray(solve(gram[None], linear[None], rank=5, max_pivots=100)[0])
    assert np.count_nonzero(codes) <= 5
    # A weight is least squares on one long dimension more.
    wide, goal = np.vstack([atoms, np.full(16, weight / 1e5)]), np.append(signal, -1e5)
    best = nnls(wide.astype(float), goal.astype(float))[0]
    own, least = (0.5 * np.sum((signal - atoms @ z) ** 2) + weight * z.sum() for z in (codes, best))
    assert own <= least * (1 + 1e-4)
