"""The reweighted lasso: each round is the weighted lasso that it says it is, and what is sparse is
recovered with little bias.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from numpy import asarray, count_nonzero, float32
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

from sae_gap.solvers import (
    SlotCodes,
    atom_rows,
    host_learning,
    pivoting,
    reweighted_lasso,
)

from .problems import SHAPE, draw

solve = jax.jit(pivoting.solve, static_argnames="rank")


def pursue(signals, dictionary, *scales, num_slots, **options):
    atoms = atom_rows(jnp.asarray(dictionary), num_slots)
    return reweighted_lasso(signals, atoms, *scales, num_slots=num_slots, **options)


def dense(found, num_latents):
    codes = np.zeros((len(found.places), num_latents))
    np.add.at(
        codes, (np.arange(len(codes))[:, None], asarray(found.places)), found.codes
    )
    return codes


def reference(signal, dictionary, threshold, epsilon, rounds):
    """Each round by scikit-learn: a weight for each atom is one weight for atoms of other lengths."""
    code = np.zeros(dictionary.shape[1])
    for _ in range(rounds):
        on = (code > 0) | (dictionary.T @ (signal - dictionary @ code) > threshold)
        weights = epsilon / (code[on] + epsilon)
        peer = Lasso(
            threshold / len(signal), fit_intercept=False, positive=True, tol=1e-12
        )
        code[on] = peer.fit(dictionary[:, on] / weights, signal).coef_ / weights
    return code


@mark.parametrize("rounds", [1, 3])
def test_rounds_are_weighted_lassos(rounds):
    signals, dictionary = draw()
    found = pursue(signals, dictionary, 0.1, 0.05, num_slots=80, num_rounds=rounds)
    codes = dense(found, SHAPE[2])
    assert_allclose(found.residual, signals - codes @ dictionary.T, atol=1e-5)
    expected = [
        reference(y, dictionary.astype(float), 0.1, 0.05, rounds) for y in signals
    ]
    assert_allclose(codes, expected, atol=1e-4)


def test_the_loops_of_a_cpu_find_the_same_codes():
    """Of more samples than a block has, on more atoms than a tile has, with more of them than slots
    and some twice.
    """
    rng = default_rng(0)
    dictionary = rng.standard_normal((40, 2_100)).astype("float32")
    dictionary[:, 7:2_000:100] = dictionary[:, 8:2_000:100]
    dictionary /= norm(dictionary, axis=0)
    signals = rng.standard_normal((70, 40)).astype("float32")
    atoms = atom_rows(jnp.asarray(dictionary), 16)
    expected = jax.jit(
        lambda: reweighted_lasso(signals, atoms, 1.2, 0.6, num_slots=16)
    )()
    found = host_learning.reweighted_lasso(
        signals, asarray(atoms), 1.2, 0.6, num_slots=16, num_rounds=3
    )
    _, codes, residual = found
    assert_allclose(residual, expected.residual, atol=1e-4)
    assert 5 < count_nonzero(codes) / 70 < 16
    assert not (np.diff(codes != 0, axis=1) & (codes[:, 1:] != 0)).any()
    whole, want = (dense(SlotCodes(*each), 2_176) for each in (found, expected))
    # Of two that are the same either may have the code.
    for each in (given := [whole.copy(), want]):
        each[:, 8:2_000:100] += each[:, 7:2_000:100]
        each[:, 7:2_000:100] = 0
    assert_allclose(*given, atol=1e-3)
    products, squares, uses = host_learning.sums(*found, 2_176)
    assert_allclose(products, whole.T @ residual, atol=1e-4)
    assert_allclose(squares, (whole**2).sum(axis=0), rtol=1e-5)
    assert_array_equal(uses, count_nonzero(whole, axis=0))


FORK = """
import os, signal
import numpy as np
from sae_gap.solvers import host_learning

# Of several blocks.
signals, atoms = np.eye(200, 8, dtype="float32"), np.eye(32, 8, dtype="float32")

def code():
    return host_learning.reweighted_lasso(signals, atoms, 0.1, 0.05, num_slots=4, num_rounds=3)

here = code()
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(int(not all(map(np.array_equal, code(), here))))
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_of_a_fork_has_threads_of_its_own():
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=120
    )


@mark.parametrize("slots", [1, 5, 16])
def test_equals_non_negative_least_squares(slots):
    rng = default_rng(slots)
    atoms = rng.normal(size=(30, slots + 4, slots))
    signals = rng.normal(size=(30, slots + 4))
    gram = np.einsum("nmi,nmj->nij", atoms, atoms).astype(float32)
    linear = np.einsum("nmi,nm->ni", atoms, signals).astype(float32)
    want = [nnls(*each)[0] for each in zip(atoms, signals, strict=True)]
    assert_allclose(solve(gram, linear, rank=slots, max_pivots=200), want, atol=2e-4)
    # Broken off, they are feasible.
    codes = asarray(solve(gram, linear, rank=slots, max_pivots=2))
    assert codes.min() >= 0 and count_nonzero(codes, axis=1).max() == min(slots, 2)


@mark.parametrize("seed", range(6))
def test_a_full_basis_makes_room_for_better_atoms(seed):
    """With more atoms than dimensions, the last to enter depend on the basis, and each takes the
    place of another.
    """
    rng = default_rng(seed)
    atoms = rng.normal(size=(5, 16)).astype(float32)
    atoms /= norm(atoms, axis=0)
    signal = atoms @ rng.exponential(size=16).astype(float32)
    weight = float32(1e-3)
    gram = atoms.T @ atoms
    linear = atoms.T @ signal - weight
    codes = asarray(solve(gram[None], linear[None], rank=5, max_pivots=100)[0])
    assert count_nonzero(codes) <= 5
    # A weight is least squares on one long dimension more.
    wide = np.vstack([atoms, np.full(16, weight / 1e5)])
    goal = np.append(signal, -1e5)
    best = nnls(wide.astype(float), goal.astype(float))[0]
    own, least = (
        0.5 * np.sum((signal - atoms @ z) ** 2) + weight * z.sum()
        for z in (codes, best)
    )
    assert own <= least * (1 + 1e-4)
