import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark

from benchmarks.speed.scores import score
from sae_gap.solvers import fista, sparse_code

from .problems import SHAPE, draw


def textbook(
    signals, dictionary, start, iterations, lam=0.1, *, momentum=True, restart=False
):
    """FISTA as its paper states it, in float64; and how often momentum began anew where
    it pointed uphill, in a form that is a step ahead of the paper's.
    """
    step = 1 / norm(dictionary.astype(float), 2) ** 2
    z = x = start.astype(float)
    t = np.full((len(signals), 1), (1 + 5**0.5) / 2 if restart else 1)
    count = 0
    for _ in range(iterations):
        new = np.maximum(
            x + step * (signals - x @ dictionary.T) @ dictionary - step * lam, 0
        )
        uphill = restart & (((x - new) * (new - z)).sum(axis=1, keepdims=True) > 0)
        t = np.where(uphill, 1, t)
        count = count + uphill.sum()
        last = t
        t = (1 + np.sqrt(1 + 4 * t**2)) / 2 if momentum else t
        x = new + (last - 1) / t * (new - z)
        z = new
    return z, count


@mark.parametrize("iterations", [0, 1, 50])
@mark.parametrize("name", ["fista", "ista"])
def test_fixed_iterations_follow_the_textbook(name, iterations):
    signals, dictionary = draw()
    # The textbook takes atoms as they are, and its steps with them.
    dictionary *= np.linspace(0.4, 1.6, SHAPE[2], dtype=np.float32)
    start = default_rng(0).uniform(size=(SHAPE[0], SHAPE[2])).astype(np.float32)
    want, _ = textbook(signals, dictionary, start, iterations, momentum=name == "fista")
    options = {"tol": None, "max_iterations": iterations, "init": start}
    found = sparse_code(signals, dictionary, 0.1, solver=name, **options)
    assert_allclose(found.codes, want, atol=1e-4)
    assert set(found.iterations.tolist()) == {iterations}
    # What is certified are the codes that are returned.
    value, _ = score(signals, dictionary, found.codes, 0.1)
    assert_allclose(found.objective, value, rtol=1e-5)


def test_momentum_that_points_uphill_begins_anew():
    signals, dictionary = draw()
    start = np.zeros((SHAPE[0], SHAPE[2]))
    want, count = textbook(signals, dictionary, start, 60, restart=True)
    assert count >= len(signals)
    found = fista.solve(
        signals, dictionary, 0.1, np.float32(start), tol=1e-30, max_iterations=60
    )
    assert_allclose(found.codes, want, atol=1e-5)


def test_a_dictionary_of_zeros_stops_at_once():
    zero = sparse_code(draw()[0], 0 * draw()[1], 0.1, solver="fista")
    assert zero.converged.all() and not zero.iterations.any() and not zero.codes.any()


def test_finished_samples_stand_still():
    signals, dictionary = draw(2)
    among = sparse_code(signals, dictionary, 0.05, solver="fista")
    first = int(jnp.min(among.iterations))
    ended = np.asarray(among.iterations) == first
    assert 0 < np.sum(ended) < len(ended)
    # What the others then take must not move those that are done first by a bit.
    stopped = sparse_code(
        signals, dictionary, 0.05, solver="fista", max_iterations=first
    )
    assert_array_equal(np.asarray(stopped.codes)[ended], np.asarray(among.codes)[ended])
    assert_array_equal(stopped.gap[ended], among.gap[ended])
    # Without momentum it takes longer.
    plain = sparse_code(signals, dictionary, 0.05, solver="ista")
    assert plain.converged.all() and np.mean(plain.iterations) > np.mean(
        among.iterations
    )
    assert_allclose(plain.objective, among.objective, rtol=2e-6)
