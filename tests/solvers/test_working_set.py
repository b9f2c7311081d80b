import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import working_set

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
