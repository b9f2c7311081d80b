"""The best values on a given support, in double precision: of the lasso, and of least squares,
which has no penalty.

Non-negative values are found by block principal pivoting: with P the latents that may differ from
zero, first all of the support, it solves `(D_PᵀD_P + μI) z_P = D_Pᵀy - λ` and exchanges at once all
latents of P whose value is negative with all others whose correlation `d_jᵀ(y - D z)` exceeds λ.
Where there are none, the values are the minimiser; a sample whose exchanges do not end is left to
`scipy.optimize.nnls`, which takes as long at supports of 32 atoms and twice as long at 128. The
ridge μ is a few roundings of double precision; it lets supports hold dependent atoms, as every
support beyond input_dim does, and costs at most `½μ‖z‖²`.

`encoders.on_support` has the same two problems compiled, for all samples at once, in single
precision, in a time that goes with the width. Here each sample is solved by itself, in a time that
goes with its support alone.

References:
  Portugal, Júdice & Vicente (1994), "A comparison of block pivoting and interior-point algorithms
  for linear least squares problems with nonnegative variables", Mathematics of Computation 63(208).
"""

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from sae_gap.core import lasso_problem
from sae_gap.core.types import Solution
from sae_gap.runtime.cores import one_blas_thread

# Exchanges before a sample is left to SciPy; hardly any takes ten.
EXCHANGES = 30
# What a value may lie below zero, or a correlation above it, where the signal and the atoms have
# unit norm.
SLACK = 1e-10


def refit(
    target: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim num_latents"],
    on: Bool[ArrayLike, "n num_latents"],
    *,
    nonneg: bool = True,
) -> Float[np.ndarray, "n num_latents"]:
    """`argmin_z ‖y - D z‖²` on the support of each sample, over `z ≥ 0` if `nonneg`.

    Args:
      target: y, (n, input_dim).
      dictionary: atoms of any norm, (input_dim, num_latents).
      on: the supports, (n, num_latents).
      nonneg: whether values are non-negative.

    Returns:
      Codes, (n, num_latents), zero off the support.
    """
    return _fit(target, dictionary, on, 0.0, nonneg=nonneg)[0].astype(np.float32)


def lasso_on_support(
    target: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim num_latents"],
    on: Bool[ArrayLike, "n num_latents"],
    lam: Float[ArrayLike, "..."],
    *,
    nonneg: bool = True,
) -> Solution:
    """`argmin_z ½‖y - D z‖² + λ‖z‖₁` on the support of each sample, over `z ≥ 0` if `nonneg`.

    Signed values are the differences of non-negative ones of each atom and of its negative.

    Args:
      target: y, (n, input_dim).
      dictionary: atoms of any norm, (input_dim, num_latents).
      on: the supports, (n, num_latents).
      lam: λ > 0, a scalar or one for each sample, (n,) or (n, 1).
      nonneg: whether values are non-negative.

    Returns:
      The codes with their objective and duality gap in the problem on the support.
    """
    weights = np.asarray(lam, np.float64).reshape(-1, 1)
    codes, objective, gap = _fit(target, dictionary, on, weights, nonneg=nonneg)
    return Solution(
        codes=jnp.asarray(codes),
        objective=jnp.asarray(objective),
        gap=jnp.asarray(gap),
        iterations=jnp.zeros(len(codes), int),
        converged=jnp.asarray(gap <= 1e-6 * objective),
    )


def _fit(target, dictionary, on, lam, *, nonneg: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The minimisers, and what `lasso_problem.value_and_gap` says of them where there is a penalty.

    Each sample is fitted with unit norm on unit atoms.
    """
    signals, columns = (
        np.asarray(target, np.float64),
        np.ascontiguousarray(np.asarray(dictionary).T),
    )
    codes, weights = np.zeros(np.shape(on)), np.broadcast_to(lam, (len(signals), 1))
    values_and_gaps = np.stack([0.5 * np.sum(signals**2, axis=1), np.zeros(len(signals))], axis=1)
    with one_blas_thread():
        for sample, (signal, chosen, weight) in enumerate(
            zip(signals, np.asarray(on), weights, strict=True)
        ):
            place, length = np.flatnonzero(chosen), float(np.linalg.norm(signal))
            if not (place.size and length > 0):
                continue
            atoms = columns[place].astype(np.float64)
            norms = np.linalg.norm(atoms, axis=1)
            norms[norms == 0] = 1
            atoms, signal, penalty = (
                atoms / norms[:, None],
                signal / length,
                weight / (length * norms),
            )
            if nonneg:
                values = _non_negative(atoms, signal, penalty)
            elif weight == 0:
                values = _solve(_gram(atoms), atoms @ signal)
            else:
                both = _non_negative(np.concatenate([atoms, -atoms]), signal, np.tile(penalty, 2))
                values = both[: len(place)] - both[len(place) :]
            codes[sample, place] = values * (length / norms)
            if weight > 0:
                rest = (signal - values @ atoms)[None]
                pull = rest @ atoms.T
                scale = lasso_problem.dual_scale(pull, penalty, nonneg=nonneg)
                parts = rest, (1 - scale) * rest, values[None], scale * pull, penalty
                values_and_gaps[sample] = length**2 * np.ravel(lasso_problem.value_and_gap(*parts))
    return codes, *values_and_gaps.T


def _gram(atoms: Float[np.ndarray, "size input_dim"]) -> Float[np.ndarray, "size size"]:
    gram = atoms @ atoms.T
    gram[np.diag_indices(len(atoms))] += 64 * len(atoms) * np.finfo(np.float64).eps
    return gram


def _solve(
    gram: Float[np.ndarray, "size size"], pull: Float[np.ndarray, " size"]
) -> Float[np.ndarray, " size"]:
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, pull, check_finite=False)


def _non_negative(
    atoms: Float[np.ndarray, "size input_dim"],
    signal: Float[np.ndarray, " input_dim"],
    penalty: Float[np.ndarray, " size"],
) -> Float[np.ndarray, " size"]:
    """The non-negative values, less whose penalty a signal of unit norm is fitted."""
    size = len(atoms)
    gram, pull = _gram(atoms), atoms @ signal - penalty
    passive = np.ones(size, bool)
    for _ in range(EXCHANGES):
        inside = np.flatnonzero(passive)
        values = np.zeros(size)
        if inside.size:
            values[inside] = _solve(gram[np.ix_(inside, inside)], pull[inside])
        wrong = np.where(passive, values < -SLACK, pull - gram @ values > SLACK)
        if not wrong.any():
            return np.maximum(values, 0)
        passive ^= wrong
    # With G = L Lᵀ, half of ‖Lᵀz - L⁻¹(Dᵀy - λ)‖² is the objective but for a constant.
    lower = scipy.linalg.cholesky(gram, lower=True)
    return scipy.optimize.nnls(lower.T, scipy.linalg.solve_triangular(lower, pull, lower=True))[0]
