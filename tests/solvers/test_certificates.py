"""Whether the certificates of `sparse_code` are true: random lasso problems, each solved and then
judged by NumPy alone.

A batch is a dictionary with some signals, drawn from a seed: coherent, duplicate, dependent, zero
or badly scaled atoms, zero or badly scaled signals, λ from a thousandth of λ_max to above it,
signed and non-negative codes, one signal up. Objective and duality gap are recomputed in float64
from signals, dictionary and codes. The residual, made feasible, bounds the optimum; where that does
not settle a claim, the optimum comes from the projection of the signal on the dual polyhedron, by
least-distance programming, which owes nothing to the coder. A claim is false where the objective is off by more
than rounding, where the claimed lower bound is above the optimum, or where a code is called
converged whose gap is larger than was asked for.

  python -m pytest -n 0 tests/solvers/test_certificates.py --problems=100000

References:
  Lawson & Hanson (1974), "Solving Least Squares Problems", chapter 23 (least-distance programming
  by NNLS).
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy.optimize
from numpy import asarray, flatnonzero, float32, float64
from numpy.linalg import norm
from numpy.random import default_rng
from pytest import mark

from benchmarks.speed import scores
from sae_gap.core import Solution
from sae_gap.solvers import sparse_code

TOL = 1e-6
# Samples, dimensions and latents: small, since each is compiled; the last has several blocks.
SHAPES = ((1, 6, 10), (7, 12, 30), (60, 16, 64), (600, 16, 48))
# Give up a problem after so many iterations, which is no false claim.
MAX_ITERATIONS = 2_000
# Powers of ten over which atoms and signals are spread. The type must hold the squares of signals,
# and gaps of a millionth of them.
ATOM_POWERS = 20
SIGNAL_POWERS = {np.dtype(float32): (-12, 17), np.dtype(float64): (-20, 20)}
# Transformations of Gaussian atoms and signals.
KINDS = (
    "gaussian",
    "coherent",
    "duplicate",
    "dependent",
    "zeros",
    "scaled atoms",
    "scaled signals",
)


class Batch(NamedTuple):
    """Signals `(n, input_dim)` to code on a dictionary by weights `(n, 1)`."""

    kind: str
    signals: np.ndarray
    dictionary: np.ndarray
    lam: np.ndarray
    nonneg: bool


def draw(seed, dtype=float32, kind=None, shape=None):
    """The batch of a seed; every other signal is sparse on the atoms, the rest are Gaussian."""
    rng = default_rng(seed)
    kind = kind or KINDS[rng.integers(len(KINDS))]
    num_samples, input_dim, num_latents = shape or SHAPES[rng.integers(len(SHAPES))]
    nonneg = bool(rng.integers(2))
    atoms = rng.normal(size=(input_dim, num_latents))
    signals = rng.normal(size=(num_samples, input_dim))
    if kind == "coherent":
        atoms = atoms + 4 * rng.normal(size=(input_dim, 1))
    elif kind == "duplicate":
        atoms = atoms[:, rng.integers(0, num_latents // 2, num_latents)]
    elif kind == "dependent":
        basis = rng.normal(size=(input_dim, input_dim // 3))
        atoms = basis @ rng.normal(size=(basis.shape[1], num_latents))
    elif kind == "zeros":
        atoms = atoms * (rng.uniform(size=num_latents) < 0.8)
        signals = signals * (rng.uniform(size=(num_samples, 1)) < 0.8)
    on = rng.uniform(size=(num_samples, num_latents)) < 3 / num_latents
    sparse = rng.normal(size=on.shape) * on
    signals[::2] = np.where(signals.any(axis=1, keepdims=True), sparse @ atoms.T, 0)[
        ::2
    ]
    norms = np.ones((1, num_latents))
    sizes = np.ones((num_samples, 1))
    if kind == "scaled atoms":
        norms = 10 ** rng.uniform(-ATOM_POWERS, ATOM_POWERS, size=norms.shape)
    elif kind == "scaled signals":
        sizes = 10 ** rng.uniform(*SIGNAL_POWERS[np.dtype(dtype)], size=sizes.shape)
    pull = signals @ atoms * norms
    largest = (pull if nonneg else np.abs(pull)).max(axis=1, keepdims=True)
    # A signal without a positive correlation has no λ_max.
    lam = (
        10 ** rng.uniform(-3, 0.1, size=sizes.shape)
        * np.where(largest > 0, largest, 1)
        * sizes
    )
    arrays = (array.astype(dtype) for array in (signals * sizes, atoms * norms, lam))
    return Batch(kind, *arrays, nonneg)


def optimum(signal, dictionary, lam, *, nonneg):
    """Optimal codes of one lasso, from its dual: argmin ‖y − t‖ over Dᵀt ≤ λ, for signed codes over
    |Dᵀt| ≤ λ.
    """
    size = norm(signal)
    norms = norm(dictionary, axis=0)
    used = flatnonzero(norms)
    codes = np.zeros(len(norms))
    if size == 0 or not len(used):
        return codes
    # In units in which everything is of order one.
    target = signal / size
    atoms = dictionary[:, used] / norms[used]
    weights = np.tile(lam / norms[used] / size, 2 - nonneg)
    sides = atoms if nonneg else np.hstack([atoms, -atoms])
    # A constraint far beyond λ_max is so far from equality that moving it nearer changes nothing.
    excess = np.maximum(sides.T @ target - weights, -10)
    last = np.append(np.zeros(len(target)), 1)
    found, _ = scipy.optimize.nnls(
        np.vstack([-sides, excess]), last, maxiter=100 * len(excess)
    )
    # The second half, if there is one, has the other sign.
    first, *second = np.split(found / (1 - excess @ found), 2 - nonneg)
    codes[used] = (first - sum(second)) * size / norms[used]
    return codes


def judge(batch: Batch, claimed: Solution):
    """Checks the claims of a solution in float64: which samples are certified, and are; and the
    sample and the words of each false claim.
    """
    codes = asarray(claimed.codes)
    objective = asarray(claimed.objective, float64)
    gap = asarray(claimed.gap, float64)
    lost = ~(np.isfinite(codes).all(axis=1) & np.isfinite(objective) & np.isfinite(gap))
    if lost.any():
        return ~lost, [(int(i), "is not finite") for i in flatnonzero(lost)]
    signals, dictionary, lam = (asarray(array, float64) for array in batch[1:4])
    sign = {"nonneg": batch.nonneg}
    value, bound = scores.score(signals, dictionary, codes, lam, **sign)
    # An entry of the residual has an error of at most u (s + 2) (|y| + |D| |z|) with s active
    # atoms, and the sums one of u (m + d) F. An objective below the floor is zero but for that.
    unit = np.finfo(codes.dtype).eps
    active = (codes != 0).sum(axis=1, keepdims=True) + 2
    reach = np.abs(signals) + np.abs(codes.astype(float64)) @ np.abs(dictionary).T
    error = norm(unit * active * reach, axis=1)
    allowed = (
        error * np.sqrt(2 * value)
        + 0.5 * error**2
        + unit * sum(dictionary.shape) * value
    )
    floor = 0.5 * np.sum((16 * unit * signals) ** 2, axis=1)
    # The residual bounds the optimum; only claims that it does not settle go on.
    converged = asarray(claimed.converged)
    least = value - bound
    for i in flatnonzero((converged & (bound > TOL * value)) | (gap < bound - allowed)):
        best = optimum(signals[i], dictionary, lam[i], **sign)[None]
        least[i] = scores.score(
            signals[i, None], dictionary, best, lam[i, None], **sign
        )[0][0]
    far = (value > least + TOL * value + allowed) & (value > floor)
    tests = {
        "has a negative code": batch.nonneg & (codes < 0).any(axis=1),
        "claims an objective that it has not": np.abs(objective - value) > allowed,
        "claims a negative gap": gap < 0,
        # Rounding may leave the reference above.
        "claims a lower bound above the optimum": objective - gap
        > np.minimum(least, value) + allowed,
        "claims to be converged": converged & far,
    }
    faults = [
        (int(i), words) for words, broken in tests.items() for i in flatnonzero(broken)
    ]
    return converged & ~far, faults


def solve(batch, code=sparse_code, **options):
    given = batch.signals, batch.dictionary, batch.lam
    options = {
        "nonneg": batch.nonneg,
        "tol": TOL,
        "max_iterations": MAX_ITERATIONS,
    } | options
    return jax.tree.map(asarray, code(*given, **options))


def certified(batch, **options):
    """Codes whose claims are judged."""
    found = solve(batch, **options)
    good, faults = judge(batch, found)
    assert not faults and good.all()
    return found


@mark.parametrize(
    ("solver", "wide"), [("auto", False), ("auto", True), ("fista", False)]
)
def test_no_claim_is_false(solver, wide, request):
    left = request.config.getoption("--problems")
    seed = 0
    missed = 0
    faults = []
    with jax.enable_x64(wide):
        while left > 0:
            batch = draw(seed, float64 if wide else float32)
            good, false = judge(batch, solve(batch, solver=solver))
            faults += [(seed, batch.kind, batch.nonneg, *said) for said in false]
            missed = missed + np.sum(~good)
            left = left - len(good)
            seed = seed + 1
    assert not faults
    # Iterations do not certify all in time; the compiled loops leave none.
    assert solver == "fista" or not missed
