"""Whether the certificates of `sparse_code` are true: random lasso problems, each solved and then
judged by NumPy alone.

A batch is a dictionary with some signals, drawn from a seed: coherent, duplicate, dependent, zero
or badly scaled atoms, zero or badly scaled signals, λ from a thousandth of λ_max to above it,
signed and non-negative codes, one signal up. Objective and duality gap are recomputed in float64
from signals, dictionary and codes. The dual point is the residual, made feasible; where that does
not settle a claim it is the projection of the signal on the dual polyhedron, by least-distance
programming, which owes nothing to the coder. A claim is false where the objective is off by more
than rounding, where the claimed lower bound is above the optimum, or where a code is called
converged whose gap is larger than was asked for. Prints a table, and a line with its seed for each
false claim, of which there being any is exit code 1.

  python -m sae_gap certificates
  python -m sae_gap certificates --preset=paper
  python -m sae_gap certificates --accelerated
  python -m sae_gap certificates --first_seed=17 --num_problems=1

References:
  Lawson & Hanson (1974), "Solving Least Squares Problems", chapter 23 (least-distance programming
  by NNLS).
"""

import dataclasses
import sys
from typing import NamedTuple

import jax
import numpy as np
import scipy.optimize

from benchmarks import cli
from benchmarks.checks import scores
from benchmarks.options import Options, option
from sae_gap.analysis import tables
from sae_gap.core.types import Solution
from sae_gap.solvers import sparse_code

TOL = 1e-6
PRESETS = {"smoke": 200, "quick": 3_000, "paper": 100_000}
# Samples, dimensions and latents: small, since each is compiled; the last has several blocks.
SHAPES = ((1, 6, 10), (7, 12, 30), (60, 16, 64), (600, 16, 48))
# Give up a problem after so many iterations, which is no false claim.
MAX_ITERATIONS = 2_000
# Powers of ten over which atoms and signals are spread. The type must hold the squares of signals,
# and gaps of a millionth of them.
ATOM_POWERS = 20
SIGNAL_POWERS = {np.dtype(np.float32): (-12, 17), np.dtype(np.float64): (-20, 20)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertificatesOptions(Options):
    """The options of `certificates`."""

    preset: str = option("quick", "How many problems.", choices=tuple(PRESETS))
    num_problems: int | None = option(None, "At least as many problems.", least=1)
    first_seed: int = option(0, "Seed of the first batch.", least=0)
    float64: bool = option(False, "Solve in double precision.")
    accelerated: bool = option(False, "Solve as an accelerator does, on whatever device is here.")


class Batch(NamedTuple):
    """Problems of one dictionary.

    Attributes:
      kind: one of `KINDS`.
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      lam: `(n, 1)` or `(n, num_latents)`.
      nonneg: whether codes are non-negative.
    """

    kind: str
    signals: np.ndarray
    dictionary: np.ndarray
    lam: np.ndarray
    nonneg: bool


class Verdict(NamedTuple):
    """The verdict on a batch of claims.

    Attributes:
      certified: `(n,)` whether a code was called converged, and is.
      faults: the sample and the words of every false claim.
    """

    certified: np.ndarray
    faults: list[tuple[int, str]]


# Transformations of Gaussian atoms and signals.
KINDS = (
    "gaussian",
    "coherent",
    "duplicate",
    "dependent",
    "zeros",
    "scaled atoms",
    "weighted atoms",
    "scaled signals",
)


def draw(seed: int, dtype: np.dtype) -> Batch:
    """The batch of a seed.

    Every other signal is sparse on the atoms, the rest are Gaussian. `scaled atoms` have norms far
    apart under one weight a sample, and `weighted atoms` a weight in proportion to their norm, so
    that each atom counts.
    """
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    num_samples, input_dim, num_latents = SHAPES[rng.integers(len(SHAPES))]
    nonneg = bool(rng.integers(2))
    atoms, signals = (
        rng.normal(size=shape) for shape in ((input_dim, num_latents), (num_samples, input_dim))
    )
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
    sparse = rng.normal(size=(num_samples, num_latents)) * (
        rng.uniform(size=(num_samples, num_latents)) < 3 / num_latents
    )
    signals[::2] = np.where(signals.any(axis=1, keepdims=True), sparse @ atoms.T, 0)[::2]
    pull = signals @ atoms
    share = 10 ** rng.uniform(-3, 0.1, size=(num_samples, 1))
    norms, sizes = np.ones((1, num_latents)), np.ones((num_samples, 1))
    if kind in ("scaled atoms", "weighted atoms"):
        norms = 10 ** rng.uniform(-ATOM_POWERS, ATOM_POWERS, size=norms.shape)
    if kind == "scaled signals":
        sizes = 10 ** rng.uniform(*SIGNAL_POWERS[dtype], size=sizes.shape)
    weights = norms if kind == "weighted atoms" else np.ones((1, 1))
    pull = pull * norms / weights
    largest = (pull if nonneg else np.abs(pull)).max(axis=1, keepdims=True)
    # A signal without a positive correlation has no λ_max.
    lam = share * np.where(largest > 0, largest, 1) * sizes * weights
    given, dictionary, weight = (
        array.astype(dtype) for array in (signals * sizes, atoms * norms, lam)
    )
    return Batch(kind, given, dictionary, weight, nonneg)


def project(
    signal: np.ndarray, dictionary: np.ndarray, lam: np.ndarray, *, nonneg: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The optimum of one lasso, from its dual: t = argmin ‖y − t‖ over Dᵀt ≤ λ, for signed codes
    over |Dᵀt| ≤ λ.

    Args:
      signal: `(input_dim,)`.
      dictionary: `(input_dim, num_latents)`.
      lam: `(num_latents,)`.
      nonneg: whether codes are constrained to be non-negative.

    Returns:
      The dual point `(input_dim,)`, and the codes `(num_latents,)`.
    """
    size, norms = np.linalg.norm(signal), np.linalg.norm(dictionary, axis=0)
    used = np.flatnonzero(norms)
    codes = np.zeros(len(lam))
    if size == 0 or not len(used):
        return signal, codes
    # In units in which everything is of order one.
    target, atoms, weights = (
        signal / size,
        dictionary[:, used] / norms[used],
        lam[used] / norms[used] / size,
    )
    sides = atoms if nonneg else np.hstack([atoms, -atoms])
    # A constraint far beyond λ_max is so far from equality that moving it nearer changes nothing.
    excess = np.maximum(sides.T @ target - np.tile(weights, 2 - nonneg), -10)
    last = np.zeros(len(target) + 1)
    last[-1] = 1
    found, _ = scipy.optimize.nnls(np.vstack([-sides, excess]), last, maxiter=100 * sides.shape[1])
    found = found / (1 - excess @ found)
    # The second half, if there is one, has the other sign.
    first, *second = np.split(found, 2 - nonneg)
    codes[used] = (first - sum(second)) * size / norms[used]
    return (target - sides @ found) * size, codes


def judge(batch: Batch, claimed: Solution) -> Verdict:
    """Checks the claims of a solution in float64."""
    codes = np.asarray(claimed.codes)
    objective, gap = np.asarray(claimed.objective, np.float64), np.asarray(claimed.gap, np.float64)
    finite = np.isfinite(codes).all(axis=1) & np.isfinite(objective) & np.isfinite(gap)
    converged = finite & np.asarray(claimed.converged)
    # A code that is not finite is faulted for that alone, and then counts as zero.
    codes = np.where(finite[:, None], codes, 0)
    objective, gap = (np.where(finite, values, 0) for values in (objective, gap))
    faults = []
    signals, dictionary = batch.signals.astype(np.float64), batch.dictionary.astype(np.float64)
    lam = np.broadcast_to(batch.lam.astype(np.float64), codes.shape)
    value, true = scores.score(signals, dictionary, codes, lam, nonneg=batch.nonneg)
    allowed, floor = _rounding(batch, codes, value)
    # The residual is one dual point; only claims that it does not settle go on.
    settled = ((true <= TOL * value) | ~converged) & (gap >= true - allowed)
    optimum = value.copy()
    for i in np.flatnonzero(~settled):
        point, best = project(signals[i], dictionary, lam[i], nonneg=batch.nonneg)
        scale = scores.feasible(point[None] @ dictionary, lam[i], nonneg=batch.nonneg)[0]
        dual = scale * (signals[i] @ point) - 0.5 * scale**2 * (point @ point)
        true[i] = min(true[i], max(value[i] - dual, 0))
        optimum[i] = min(
            value[i],
            scores.score(
                signals[i : i + 1], dictionary, best[None], lam[i : i + 1], nonneg=batch.nonneg
            )[0][0],
        )
    far = (true > TOL * value + allowed) & (value > floor)
    tests = {
        "is not finite": ~finite,
        "has a negative code": batch.nonneg & (codes < 0).any(axis=1),
        "claims an objective that it has not": finite & (np.abs(objective - value) > allowed),
        "claims a negative gap": gap < 0,
        "claims a lower bound above the optimum": finite & (objective - gap > optimum + allowed),
        "claims to be converged": converged & far,
    }
    for words, broken in tests.items():
        for i in np.flatnonzero(broken):
            figures = (
                f"objective {objective[i]:.6e} for {value[i]:.6e}, gap {gap[i]:.1e} for "
                f"{true[i]:.1e}"
            )
            faults.append((int(i), f"{words} ({figures}, optimum at most {optimum[i]:.6e})"))
    return Verdict(converged & ~far, faults)


def _rounding(batch: Batch, codes: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much rounding may change an objective in its type, and the objective below which it
    cannot be told from zero.

    An entry of the residual has an error of at most u (s + 2) (|y| + |D| |z|) with s active atoms,
    and the sums one of u (m + d) F.
    """
    unit = np.finfo(codes.dtype).eps
    signals, dictionary = (
        np.asarray(array, np.float64) for array in (batch.signals, batch.dictionary)
    )
    active = (codes != 0).sum(axis=1, keepdims=True) + 2
    reach = np.abs(signals) + np.abs(codes.astype(np.float64)) @ np.abs(dictionary).T
    error = np.linalg.norm(unit * active * reach, axis=1)
    rest = np.sqrt(2 * value)
    floor = 0.5 * np.sum((16 * unit * signals) ** 2, axis=1)
    return error * rest + 0.5 * error**2 + unit * sum(dictionary.shape) * value, floor


def solve(batch: Batch, solver: str = "auto") -> Solution:
    """The coder's solution, whose claims are checked."""
    claimed = sparse_code(
        batch.signals,
        batch.dictionary,
        batch.lam,
        nonneg=batch.nonneg,
        tol=TOL,
        solver=solver,
        max_iterations=MAX_ITERATIONS,
    )
    return jax.tree.map(np.asarray, claimed)


def main(options: CertificatesOptions) -> None:
    count, seed = options.num_problems or PRESETS[options.preset], options.first_seed
    dtype = np.dtype(np.float64 if options.float64 else np.float32)
    # For each kind and for all: problems, certified ones and false claims.
    counts = {kind: np.zeros(3, int) for kind in (*KINDS, "all")}
    faults = []
    solver = "working_set_xla" if options.accelerated else "auto"
    with jax.enable_x64(options.float64):
        while count > 0:
            batch = draw(seed, dtype)
            verdict = judge(batch, solve(batch, solver))
            for kind in (batch.kind, "all"):
                counts[kind] += len(batch.signals), verdict.certified.sum(), len(verdict.faults)
            about = f"{batch.kind}, {'non-negative' if batch.nonneg else 'signed'}"
            faults += [f"seed {seed}, sample {i} ({about}) {words}" for i, words in verdict.faults]
            seed, count = seed + 1, count - len(batch.signals)
    lines = [
        {
            "kind": kind,
            "problems": int(problems),
            "certified": f"{certified / problems:.2%}",
            "false claims": int(false),
        }
        for kind, (problems, certified, false) in counts.items()
        if problems
    ]
    print(tables.format_table(lines, {name: name for name in lines[0]}))
    if faults:
        print(*faults, sep="\n")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
