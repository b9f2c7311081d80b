import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import atoms, slots, working_set
from sae_gap.solvers.slots import Samples

from .problems import draw, score


@pytest.mark.parametrize("group", [1, 3, 7])
def test_every_sample_gets_the_steps_it_needs_and_no_more(group):
    wanted = jnp.asarray([0, 3, 1, 0, 5, 2, 1])
    state = (wanted, jnp.zeros(7, jnp.int32))
    left, steps = working_set.by_groups(
        state, lambda s: s[0] > 0, group, lambda s: (s[0] - (s[0] > 0), s[1] + (s[0] > 0))
    )
    assert left.tolist() == [0] * 7
    assert steps.tolist() == wanted.tolist()


def test_filling_a_batch_does_not_touch_the_sample_it_is_filled_with():
    state = (jnp.asarray([0, 1, 0]), jnp.asarray([10, 20, 30]))
    _, values = working_set.by_groups(state, lambda s: s[0] > 0, 3, lambda s: (s[0] * 0, s[1] + 1))
    assert values.tolist() == [10, 21, 30]


@pytest.mark.parametrize(
    ("input_dim", "num_latents"), [(1, 1), (11, 12), (93, 1000), (461, 1000), (231, 10**6), (50, 4)]
)
def test_default_slots_hold_the_supports_of_compressed_sensing(input_dim, num_latents):
    width = working_set.default_slots(input_dim, num_latents)
    assert width % atoms.LANES == 0 and width >= 2 * atoms.LANES
    support = next(
        (k for k in range(1, num_latents) if 2 * k * np.log(num_latents / k) >= input_dim), 1
    )
    assert width >= 2 * min(support, input_dim)


def test_supports_beyond_the_slots_are_solved_within_one_program():
    """Sparse signals in groups, and dense ones whose supports at a small weight outgrow the first
    slots.
    """
    shape = (48, 40, 80)
    sparse, dictionary = draw(0, shape, sparsity=5)
    dense = np.random.default_rng(0).normal(size=sparse.shape).astype(np.float32)
    row = jnp.ones((48, 1))
    solve = jax.jit(
        lambda signals, lam: working_set.solve(
            Samples(signals, lam * row, None), dictionary, jnp.ones((1, 80)), nonneg=False
        )
    )
    for signals, lam in ((sparse, 0.1), (sparse, 1e-2), (dense, 0.02)):
        solution = solve(signals, lam)
        assert bool(jnp.all(solution.converged))
        value, gap = score(signals, dictionary, solution.codes, lam, nonneg=False)
        np.testing.assert_allclose(solution.objective, value, rtol=1e-5)
        assert np.all(gap <= (2e-6 if lam == 0.1 else 1e-4) * value)
    assert int(jnp.min(jnp.sum(solution.codes != 0, axis=1))) > working_set.default_slots(
        *dictionary.shape
    )


advance, take_round = (
    jax.jit(lambda problem, state: working_set._rounds(problem, state, 12)),
    jax.jit(working_set._round),
)


@pytest.fixture(scope="module")
def begun():
    signals, dictionary = draw(1, (12, 24, 60), sparsity=5)
    problem = atoms.pose(jnp.asarray(dictionary), None, tol=1e-6, limit=100, nonneg=False)
    samples = Samples(jnp.asarray(signals), jnp.full((12, 1), 0.01), None)
    state = jax.jit(working_set.begin, static_argnums=3)(problem, samples, None, 32)
    return dictionary, problem, take_round(problem, state), advance(problem, state)


def test_more_slots_leave_what_the_others_hold(begun):
    _, problem, _, state = begun
    wide = jax.jit(slots.widen, static_argnums=2)(problem, state, 48)
    assert wide.code.shape == (12, 48) and not np.any(wide.basic[:, 32:])
    np.testing.assert_array_equal(wide.code[:, :32], state.code)
    np.testing.assert_array_equal(wide.swept[:, :32, :32], state.swept)
    np.testing.assert_array_equal(
        wide.swept[:, 32:, 32:], np.broadcast_to(np.eye(16), (12, 16, 16))
    )
    assert not np.any(wide.swept[:, 32:, :32]) and not np.any(wide.full)


def test_a_tableau_is_rid_of_its_rounding(begun, monkeypatch):
    dictionary, problem, state, _ = begun
    noise = 1e-3 * np.random.default_rng(0).normal(size=state.swept.shape).astype(np.float32)
    both = state.basic[:, :, None] & state.basic[:, None, :]
    noisy = state._replace(
        swept=state.swept + jnp.where(both, noise + noise.swapaxes(1, 2), 0),
        done=jnp.zeros(12, bool),
    )

    def error(state):
        worst = 0.0
        for place, sign, held, tableau in zip(
            *map(np.asarray, (state.places, state.sign, state.basic, state.swept)), strict=True
        ):
            chosen = (sign * dictionary[:, place])[:, held].astype(float)
            worst = max(
                worst,
                np.abs(
                    -tableau[np.ix_(held, held)] @ (chosen.T @ chosen) - np.eye(held.sum())
                ).max(),
            )
        return worst

    assert error(noisy) > 1e-3 and error(
        noisy._replace(swept=slots.refresh(problem, noisy))
    ) < 0.05 * error(noisy)
    # A round that finds its tableau stale refreshes it.
    left = []
    for stale in (0.0, np.inf):
        monkeypatch.setattr(working_set, "STALE", stale)
        left.append(error(jax.jit(lambda state: working_set._round(problem, state))(noisy)))
    assert left[1] > 1e-3 and left[0] < 0.1 * left[1]


def test_a_tableau_that_is_lost_is_begun_anew(begun):
    _, problem, state, whole = begun
    # What a pivot on an element of rounding leaves behind.
    lost = np.ones(12, np.float32)
    lost[[0, 5, 7]] = 1e30, np.nan, -1e12
    state = state._replace(swept=state.swept * lost[:, None, None], done=jnp.zeros(12, bool))
    after = advance(problem, state)
    value, gap, _, converged = working_set.certify(problem, after)
    assert bool(jnp.all(converged)) and np.all(gap <= 1e-6 * value)
    np.testing.assert_allclose(value, working_set.certify(problem, whole)[0], rtol=2e-6)
