import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from sae_gap.solvers import pivoting

solve = jax.jit(pivoting.solve, static_argnames="rank")


@pytest.mark.parametrize("slots", [1, 5, 16])
def test_equals_non_negative_least_squares(slots):
    rng = np.random.default_rng(slots)
    atoms = rng.normal(size=(30, slots + 4, slots))
    signals = rng.normal(size=(30, slots + 4))
    gram = np.einsum("nmi,nmj->nij", atoms, atoms).astype(np.float32)
    linear = np.einsum("nmi,nm->ni", atoms, signals).astype(np.float32)
    codes, swept, basic = solve(gram, linear, max_pivots=200)
    for i in range(30):
        np.testing.assert_allclose(codes[i], nnls(atoms[i], signals[i])[0], atol=2e-4)
        held = np.asarray(basic[i])
        np.testing.assert_allclose(
            -np.asarray(swept[i])[np.ix_(held, held)] @ gram[i][np.ix_(held, held)],
            np.eye(held.sum()),
            atol=2e-3,
        )


def test_dependent_atoms_are_left_out():
    atom = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]]).T
    gram = jnp.asarray((atom.T @ atom)[None], jnp.float32)
    codes, _, basic = solve(gram, jnp.ones((1, 3), jnp.float32), max_pivots=20)
    assert int(jnp.sum(basic[0, :2])) == 1
    np.testing.assert_allclose(atom @ np.asarray(codes[0]), [1.0, 0.5], atol=1e-5)


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
    codes = np.asarray(solve(gram[None], linear[None], rank=5, max_pivots=100)[0][0])
    assert np.count_nonzero(codes) <= 5
    exact = lasso_by_scipy(atoms, signal, weight)
    rest = signal - atoms @ codes
    assert 0.5 * rest @ rest + weight * codes.sum() <= exact * (1 + 1e-4)


def lasso_by_scipy(atoms, signal, weight):
    """The lasso's optimum by SciPy's bounded quasi-Newton search in double precision."""
    atoms, signal = atoms.astype(float), signal.astype(float)

    def loss(z):
        rest = signal - atoms @ z
        return 0.5 * rest @ rest + weight * z.sum(), weight - atoms.T @ rest

    fine = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000}
    return minimize(
        loss, np.ones(atoms.shape[1]), jac=True, bounds=[(0, None)] * atoms.shape[1], options=fine
    ).fun


def test_breaking_off_leaves_codes_feasible():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(50, 12, 10)).astype(np.float32)
    gram = np.einsum("nmi,nmj->nij", atoms, atoms)
    linear = rng.normal(size=(50, 10)).astype(np.float32)
    for most in range(6):
        codes, _, basic = solve(gram, linear, max_pivots=most)
        assert float(jnp.min(codes)) >= 0 and int(jnp.max(jnp.sum(basic, axis=1))) <= most
