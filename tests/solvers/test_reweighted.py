"""Reweighted pursuit: each round is the weighted lasso that it says it is, and what is sparse is
recovered with little bias.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

from sae_gap.solvers import host_pursuits, reweighted

from .problems import SHAPE, draw


def pursue(signals, dictionary, *scales, num_slots, **options):
    atoms = reweighted.atom_rows(jnp.asarray(dictionary), num_slots)
    return reweighted.pursue(signals, atoms, *scales, num_slots=num_slots, **options)


def dense(found, num_latents):
    codes = np.zeros((len(found.places), num_latents))
    np.add.at(codes, (np.arange(len(codes))[:, None], np.asarray(found.places)), found.codes)
    return codes


def reference(signal, dictionary, threshold, epsilon, rounds):
    """Each round by scikit-learn: a weight for each atom is one weight for atoms of other lengths."""
    code = np.zeros(dictionary.shape[1])
    for _ in range(rounds):
        on = (code > 0) | (dictionary.T @ (signal - dictionary @ code) > threshold)
        weights = epsilon / (code[on] + epsilon)
        peer = Lasso(threshold / len(signal), fit_intercept=False, positive=True, tol=1e-12)
        code[on] = peer.fit(dictionary[:, on] / weights, signal).coef_ / weights
    return code


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_weighted_lassos(rounds):
    signals, dictionary = draw()
    found = pursue(signals, dictionary, 0.1, 0.05, num_slots=80, num_rounds=rounds)
    codes = dense(found, SHAPE[2])
    np.testing.assert_allclose(found.residual, signals - codes @ dictionary.T, atol=1e-5)
    expected = [reference(y, dictionary.astype(float), 0.1, 0.05, rounds) for y in signals]
    np.testing.assert_allclose(codes, expected, atol=1e-4)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_codes_go_with_the_scale(scale):
    signals, dictionary = draw()
    plain = pursue(signals, dictionary, 0.1, 0.05, num_slots=8)
    moved = pursue(signals * np.float32(scale), dictionary, 0.1 * scale, 0.05 * scale, num_slots=8)
    assert np.count_nonzero(plain.codes) > 60
    np.testing.assert_allclose(np.asarray(moved.codes) / scale, plain.codes, rtol=1e-4, atol=1e-6)


def test_the_loops_of_a_cpu_find_the_same_codes():
    """Of more samples than a block has, on more atoms than a tile has, with more of them than slots
    and some twice.
    """
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((40, 2_100)).astype("float32")
    dictionary[:, 7:2_000:100] = dictionary[:, 8:2_000:100]
    dictionary /= np.linalg.norm(dictionary, axis=0)
    signals = rng.standard_normal((70, 40)).astype("float32")
    atoms = reweighted.atom_rows(jnp.asarray(dictionary), 16)
    expected = jax.jit(lambda: reweighted.pursue(signals, atoms, 1.2, 0.6, num_slots=16))()
    found = host_pursuits.pursue(signals, np.asarray(atoms), 1.2, 0.6, num_slots=16, num_rounds=3)
    places, codes, residual = found
    np.testing.assert_allclose(residual, expected.residual, atol=1e-4)
    assert 5 < np.count_nonzero(codes) / 70 < 16
    np.testing.assert_array_equal(np.diff(codes != 0, axis=1) & (codes[:, 1:] != 0), False)
    # Of two that are the same either may have the code.
    twins = np.arange(2_100)
    twins[7:2_000:100] += 1
    np.testing.assert_allclose(
        dense(reweighted.Pursuit(twins[places], codes, residual), 2_100),
        dense(expected._replace(places=twins[np.minimum(expected.places, 2_099)]), 2_100),
        atol=1e-3,
    )
    products, squares, uses = host_pursuits.sums(*found, 2_100)
    whole = dense(reweighted.Pursuit(*found), 2_100)
    np.testing.assert_allclose(products, whole.T @ residual, atol=1e-4)
    np.testing.assert_allclose(squares, (whole**2).sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(uses, np.count_nonzero(whole, axis=0))


FORK = """
import os, signal
import numpy as np
from sae_gap.solvers import host_pursuits

# Of several blocks.
signals, atoms = np.eye(200, 8, dtype="float32"), np.eye(32, 8, dtype="float32")

def pursue():
    return host_pursuits.pursue(signals, atoms, 0.1, 0.05, num_slots=4, num_rounds=3)

here = pursue()
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(int(not all(map(np.array_equal, pursue(), here))))
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_of_a_fork_has_threads_of_its_own():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=120)
