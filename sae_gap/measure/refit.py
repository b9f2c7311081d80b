"""The best values on a given support, in double precision: least squares, over non-negative values where codes are."""

import numpy as np
import scipy.linalg
import scipy.optimize
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

# Whole exchanges in a row that need not lessen the violations before one latent at a time is exchanged, and exchanges for each
# atom of a support before its sample is left to SciPy.
CHANCES, EXCHANGES = 3, 5
# What a value may lie below zero, or a correlation above it, where the signal and the atoms have unit norm.
SLACK = 1e-10


def refit(
    target: Float[ArrayLike, "n input_dim"],
    dictionary: Float[ArrayLike, "input_dim num_latents"],
    on: Bool[ArrayLike, "n num_latents"],
    *,
    nonneg: bool = True,
) -> Float[np.ndarray, "n num_latents"]:
    r"""`argmin_z ‖y - D z‖²` on the support of each sample, over `z ≥ 0` if `nonneg`.

    Non-negative values are found by block principal pivoting: with P the latents that may differ from zero, first all of the
    support, it solves `(D_PᵀD_P + μI) z_P = D_Pᵀy` and exchanges at once all latents of P whose value is negative with all
    others whose correlation `d_jᵀ(y - D z)` is positive, or only the last of these where whole exchanges lead nowhere. Where
    there are none, the values are the minimiser. The ridge μ is a few roundings of double precision; it lets supports hold
    dependent atoms, of which there must be some beyond input_dim, and costs at most `½μ‖z‖²`.

    Args:
      target: y, (n, input_dim).
      dictionary: atoms of any norm, (input_dim, num_latents).
      on: the supports, (n, num_latents).
      nonneg: whether values are non-negative.

    Returns:
      Codes, (n, num_latents), zero off the support.

    References:
      Portugal, Júdice & Vicente (1994), "A comparison of block pivoting and interior-point algorithms for linear least squares
      problems with nonnegative variables", Mathematics of Computation 63(208).
    """
    signals, atoms, where = np.asarray(target, np.float64), np.ascontiguousarray(np.asarray(dictionary).T), np.asarray(on)
    codes = np.zeros(where.shape, np.float32)
    for sample, (signal, chosen) in enumerate(zip(signals, where, strict=True)):
        place, length = np.flatnonzero(chosen), np.linalg.norm(signal)
        if place.size and length > 0:
            own = atoms[place].astype(np.float64)
            norms = np.linalg.norm(own, axis=1)
            norms[norms == 0] = 1
            codes[sample, place] = _values(own / norms[:, None], signal / length, nonneg=nonneg) * (length / norms)
    return codes


def _values(
    atoms: Float[np.ndarray, "size input_dim"], signal: Float[np.ndarray, " input_dim"], *, nonneg: bool
) -> Float[np.ndarray, " size"]:
    """The values on a support of unit or zero atoms, for a signal of unit norm."""
    size = len(atoms)
    gram, pull = atoms @ atoms.T, atoms @ signal
    gram[np.diag_indices(size)] += 64 * size * np.finfo(np.float64).eps
    if not nonneg:
        return scipy.linalg.solve(gram, pull, assume_a="pos", overwrite_a=True, overwrite_b=True, check_finite=False)
    passive, fewest, chances = np.ones(size, bool), size + 1, CHANCES
    for _ in range(EXCHANGES * size):
        inside = np.flatnonzero(passive)
        values = np.zeros(size)
        if inside.size:
            factor = scipy.linalg.cho_factor(gram[np.ix_(inside, inside)], lower=True, overwrite_a=True, check_finite=False)
            values[inside] = scipy.linalg.cho_solve(factor, pull[inside], check_finite=False)
        wrong = np.where(passive, values < -SLACK, pull - gram @ values > SLACK)
        count = int(np.count_nonzero(wrong))
        if not count:
            return np.maximum(values, 0)
        if count < fewest:
            fewest, chances = count, CHANCES
        elif chances:
            chances -= 1
        else:
            wrong = np.arange(size) == np.flatnonzero(wrong)[-1]
        passive ^= wrong
    return scipy.optimize.nnls(atoms.T, signal)[0]
