import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import fista, sparse_code

from .problems import SHAPE, draw, score


def _textbook(signals, dictionary, lam, start, iterations, momentum):
    """FISTA as its paper states it, in float64 and in the Gram form."""
    signals, dictionary = signals.astype(float), dictionary.astype(float)
    step = 1 / np.linalg.norm(dictionary, 2) ** 2
    z = x = start.astype(float)
    t = 1.0
    for _ in range(iterations):
        new = np.maximum(
            x - step * (x @ (dictionary.T @ dictionary) - signals @ dictionary) - step * lam, 0
        )
        t_new = (1 + np.sqrt(1 + 4 * t**2)) / 2 if momentum else 1.0
        x, z, t = new + (t - 1) / t_new * (new - z), new, t_new
    return z


@pytest.mark.parametrize("iterations", [0, 1, 2, 50])
@pytest.mark.parametrize("momentum", [True, False])
def test_fixed_iterations_follow_the_textbook(momentum, iterations):
    signals, dictionary = draw()
    # The textbook takes atoms as they are, and its steps with them.
    dictionary *= np.linspace(0.4, 1.6, SHAPE[2], dtype=np.float32)
    start = np.random.default_rng(0).uniform(size=(SHAPE[0], SHAPE[2])).astype(np.float32)
    want = _textbook(signals, dictionary, 0.1, start, iterations, momentum)
    fixed = fista.fixed(signals, dictionary, 0.1, start, iterations=iterations, momentum=momentum)
    np.testing.assert_allclose(fixed, want, atol=1e-4)
    name = "fista" if momentum else "ista"
    public = sparse_code(
        signals, dictionary, 0.1, solver=name, tol=None, max_iterations=iterations, init=start
    )
    np.testing.assert_allclose(public.codes, want, atol=1e-4)
    assert set(public.iterations.tolist()) == {iterations}
    # What is certified are the codes that are returned.
    value, _ = score(signals, dictionary, public.codes, 0.1)
    np.testing.assert_allclose(public.objective, value, rtol=1e-5)


def test_fixed_iterations_may_be_traced():
    signals, dictionary = draw()
    run = jax.jit(lambda i: fista.fixed(signals, dictionary, 0.1, iterations=i))
    for iterations in (3, 9):
        np.testing.assert_allclose(
            run(iterations), fista.fixed(signals, dictionary, 0.1, iterations=iterations), atol=1e-6
        )


def _restarted(signals, dictionary, lam, iterations):
    """FISTA whose momentum begins anew, sample by sample, where it points uphill, in float64; and
    how often that was.
    """
    signals, dictionary = signals.astype(float), dictionary.astype(float)
    step = 1 / np.linalg.norm(dictionary, 2) ** 2
    z = before = np.zeros((len(signals), dictionary.shape[1]))
    t, count = np.ones((len(signals), 1)), 0
    for _ in range(iterations):
        t_new = (1 + np.sqrt(1 + 4 * t**2)) / 2
        point = z + (t - 1) / t_new * (z - before)
        new = np.maximum(
            point - step * (point @ dictionary.T - signals) @ dictionary - step * lam, 0
        )
        uphill = ((point - new) * (new - z)).sum(axis=1, keepdims=True) > 0
        z, before, t, count = new, z, np.where(uphill, 1, t_new), count + uphill.sum()
    return z, count


def test_momentum_that_points_uphill_begins_anew():
    signals, dictionary = draw()
    want, count = _restarted(signals, dictionary, 0.1, 60)
    assert count >= len(signals)
    found = fista.solve(signals, dictionary, 0.1, tol=1e-30, max_iterations=60)
    np.testing.assert_allclose(found.codes, want, atol=1e-5)


def test_a_sample_that_is_not_finite_stops_at_once():
    signals, dictionary = draw()
    signals[1, 0] = np.nan
    found = fista.solve(signals, dictionary, 0.1, max_iterations=100)
    assert found.iterations[1] == 0 < found.iterations[0] and not found.converged[1]


def test_finished_samples_stand_still():
    signals, dictionary = draw(2)
    among = sparse_code(signals, dictionary, 0.05, solver="fista")
    first = int(jnp.min(among.iterations))
    ended = np.asarray(among.iterations) == first
    assert 0 < np.sum(ended) < len(ended)
    # Stopped when the first of them are done: what the others then take must not move these by a
    # bit.
    stopped = sparse_code(signals, dictionary, 0.05, solver="fista", max_iterations=first)
    np.testing.assert_array_equal(np.asarray(stopped.codes)[ended], np.asarray(among.codes)[ended])
    np.testing.assert_array_equal(stopped.gap[ended], among.gap[ended])


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("lam", [1e-4, 1e-2, 1.0])
def test_small_weights_are_certified_in_float32(lam, nonneg):
    signals, dictionary = draw(1)
    solution = sparse_code(signals, dictionary, lam, nonneg=nonneg, solver="fista")
    assert bool(jnp.all(solution.converged))
    with jax.enable_x64(True):
        # By another solver.
        exact = sparse_code(
            np.float64(signals), np.float64(dictionary), lam, tol=1e-9, nonneg=nonneg
        )
    # The claimed interval [objective - gap, objective] holds the optimum, give or take the roundoff
    # of the objective.
    value, _ = score(signals, dictionary, solution.codes, lam, nonneg)
    room = 1e-7 * value
    assert np.all(np.asarray(exact.objective) <= value + room)
    assert np.all(np.asarray(exact.objective) >= value - np.asarray(solution.gap) - room)


def test_zero_dictionary():
    signals, dictionary = draw()
    solution = sparse_code(signals, 0 * dictionary, 0.1, solver="fista")
    assert bool(jnp.all(solution.converged)) and not np.any(solution.codes)
