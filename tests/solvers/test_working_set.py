import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import spread_atoms, working_set

from .problems import draw, score


def test_a_batch_of_groups_is_solved_within_one_program():
    signals, dictionary = draw(0, (48, 24, 150), sparsity=5)
    solve = jax.jit(lambda lam: working_set.solve(signals, dictionary, lam, nonneg=False))
    for lam in (0.1, 1e-3):
        solution = solve(lam)
        assert bool(jnp.all(solution.converged))
        value, gap = score(signals, dictionary, solution.codes, lam, nonneg=False)
        np.testing.assert_allclose(solution.objective, value, rtol=1e-5)
        assert np.all(gap <= (2e-6 if lam == 0.1 else 1e-3) * value)


def test_supports_larger_than_the_slots_are_handed_on():
    # Dense signals at a small weight have supports of nearly input_dim.
    rng = np.random.default_rng(0)
    dictionary = (rng.normal(size=(70, 140)) / np.sqrt(70)).astype(np.float32)
    signals = rng.normal(size=(4, 70)).astype(np.float32)
    solution = working_set.solve(signals, dictionary, 0.02, nonneg=False)
    assert float(jnp.min(jnp.sum(solution.codes != 0, axis=1))) > working_set.default_slots(*dictionary.shape)
    assert bool(jnp.all(solution.converged))


@pytest.mark.parametrize(("input_dim", "num_latents"), [(1, 1), (11, 12), (93, 1000), (461, 1000), (231, 10**6), (50, 4)])
def test_default_slots_hold_the_supports_of_compressed_sensing(input_dim, num_latents):
    slots = working_set.default_slots(input_dim, num_latents)
    assert slots % working_set.LANES == 0 and slots >= 2 * working_set.LANES
    support = next((k for k in range(1, num_latents) if 2 * k * np.log(num_latents / k) >= input_dim), 1)
    assert slots >= 2 * min(support, input_dim)


def test_a_stale_tableau_is_rid_of_its_rounding():
    signals, dictionary = draw(1, (12, 24, 60), sparsity=5)
    problem = spread_atoms.pose(jnp.asarray(dictionary), None, tol=1e-6, limit=100, nonneg=True, with_gram=True)
    state = working_set.begin(problem, jnp.asarray(signals), jnp.full((12, 1), 0.01), None, None, 32)
    state = working_set._round(problem, state)
    noise = 1e-3 * np.random.default_rng(0).normal(size=state.swept.shape).astype(np.float32)
    both = state.basic[:, :, None] & state.basic[:, None, :]
    state = state._replace(swept=state.swept + jnp.where(both, noise + noise.swapaxes(1, 2), 0), done=jnp.zeros(12, bool))

    def error(stale):
        after = working_set._round(problem, state._replace(stale=jnp.full(12, stale)))
        worst = 0.0
        for places, basic, swept in zip(after.places, np.asarray(after.basic), after.swept, strict=True):
            atoms = dictionary[:, np.asarray(places)[basic]].astype(float)
            inverse = -np.asarray(swept)[np.ix_(basic, basic)]
            worst = max(worst, np.abs(inverse @ (atoms.T @ atoms) - np.eye(basic.sum())).max())
        return worst

    assert error(False) > 1e-3 and error(True) < 0.05 * error(False)


def test_a_tableau_that_is_lost_is_begun_anew():
    signals, dictionary = draw(1, (12, 24, 60), sparsity=5)
    problem = spread_atoms.pose(jnp.asarray(dictionary), None, tol=1e-6, limit=100, nonneg=False, with_gram=True)
    state = working_set.begin(problem, jnp.asarray(signals), jnp.full((12, 1), 0.01), None, None, 32)
    whole = working_set.advance(problem, state, 0)
    state = working_set._round(problem, state)
    # What a pivot on an element of rounding leaves behind.
    lost = np.ones(12, np.float32)
    lost[[0, 5, 7]] = 1e30, np.nan, -1e12
    state = state._replace(swept=state.swept * lost[:, None, None], done=jnp.zeros(12, bool))
    after = working_set.advance(problem, state, 0)
    value, gap, _, converged = working_set.certify(problem, after)
    assert bool(jnp.all(converged)) and np.all(gap <= 1e-6 * value)
    np.testing.assert_allclose(value, working_set.certify(problem, whole)[0], rtol=2e-6)
