"""Reweighted pursuit: each round is the weighted lasso that it says it is, and what is sparse is
recovered with little bias.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.solvers import host_pursuits, reweighted


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((24, 40))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.zeros((30, 40))
    for row in codes:
        row[rng.choice(40, 3, replace=False)] = rng.uniform(0.3, 1, 3)
    return codes, dictionary.astype("float32"), (codes @ dictionary.T).astype("float32")


def pursue(signals, dictionary, *args, num_slots, **options):
    return reweighted.pursue(
        signals,
        reweighted.atom_rows(jnp.asarray(dictionary), num_slots),
        *args,
        num_slots=num_slots,
        **options,
    )


def dense(found, num_latents):
    codes = np.zeros((len(found.places), num_latents))
    for row, places, values in zip(
        codes, np.asarray(found.places), np.asarray(found.codes), strict=True
    ):
        np.add.at(row, places, values)
    return codes


def coordinate_descent(signal, dictionary, weights, allowed, sweeps=300):
    code = np.zeros(dictionary.shape[1])
    for _ in range(sweeps):
        for j in np.flatnonzero(allowed):
            rest = signal - dictionary @ code + dictionary[:, j] * code[j]
            code[j] = max(0.0, dictionary[:, j] @ rest - weights[j])
    return code


def reference(signal, dictionary, threshold, epsilon, rounds):
    code = np.zeros(dictionary.shape[1])
    for _ in range(rounds):
        admitted = (code > 0) | (dictionary.T @ (signal - dictionary @ code) > threshold)
        code = coordinate_descent(
            signal, dictionary, threshold * epsilon / (code + epsilon), admitted
        )
    return code


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_weighted_lassos(problem, rounds):
    _, dictionary, signals = problem
    signals = signals[:6]
    found = pursue(signals, dictionary, 0.1, 0.05, num_slots=80, num_rounds=rounds)
    np.testing.assert_allclose(found.residual, signals - dense(found, 40) @ dictionary.T, atol=1e-5)
    expected = [
        reference(signal, dictionary.astype(float), 0.1, 0.05, rounds) for signal in signals
    ]
    np.testing.assert_allclose(dense(found, 40), expected, atol=1e-4)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_codes_go_with_the_scale(problem, scale):
    _, dictionary, signals = problem
    one = pursue(signals, dictionary, 0.1, 0.05, num_slots=8)
    other = pursue(signals * np.float32(scale), dictionary, 0.1 * scale, 0.05 * scale, num_slots=8)
    assert np.count_nonzero(one.codes) > 60
    np.testing.assert_allclose(np.asarray(other.codes) / scale, one.codes, rtol=1e-4, atol=1e-6)


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


def test_a_candidate_in_use_takes_no_second_slot():
    """A free slot takes the candidate of its rank, unless that is in use or does not lead."""
    places, used = jnp.array([[3, 0, 0, 0]]), jnp.array([[True, False, False, False]])
    candidates, leads = jnp.array([[3, 5, 7]]), jnp.array([[True, True, False]])
    places, on = reweighted._merge(places, used, candidates, leads)
    np.testing.assert_array_equal(places, [[3, 0, 5, 0]])
    np.testing.assert_array_equal(on, [[True, False, True, False]])


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
