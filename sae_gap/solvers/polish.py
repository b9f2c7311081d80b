"""The last digits: codes that single precision brought near the optimum, but whose certificate its rounding hides."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

# Changes of a support after which a sample is left as it came.
STEPS = 32
# What a correlation may exceed its weight by, relative to it, in double precision.
_EXCESS = 1e-10


class Polished(NamedTuple):
    """Codes of n signals with their certificates; see `Solution`. A sample that is not `converged` has what it came with."""

    codes: Float[np.ndarray, "n num_latents"]
    objective: Float[np.ndarray, " n"]
    gap: Float[np.ndarray, " n"]
    converged: Bool[np.ndarray, " n"]


def polish(
    signals: Float[np.ndarray, "n input_dim"],
    atoms: Float[np.ndarray, "num_latents input_dim"],
    row: Float[np.ndarray, "n 1"],
    column: Float[np.ndarray, "rows num_latents"],
    codes: Float[np.ndarray, "n num_latents"],
    *,
    tol: float,
    nonneg: bool,
) -> Polished:
    """Go on from codes near the optimum in double precision, one sample after the other, by an active-set method.

    With S the support, each step solves `D_Sᵀ D_S z_S = D_Sᵀ y - λ_S sign(z_S)`, goes there as far as no sign changes,
    and drops the code that vanishes on the way or, where none does, takes in the atom that most exceeds its weight. Where no
    atom does, the codes are the minimiser.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, in double precision.
      row: `(n, 1)` weights of the samples.
      column: `(1, num_latents)` factors on them, or `(n, num_latents)`.
      codes: `(n, num_latents)`, whose type the result is rounded to.
      tol: duality gap to reach, relative to the objective.
      nonneg: whether codes are constrained to be non-negative.

    Returns:
      The codes, rounded, with objectives and gaps of the rounded codes.

    References:
      Osborne, Presnell & Turlach (2000), "A new approach to variable selection in least squares problems", IMA J. Numer. Anal.
    """
    found, value, gap = codes.copy(), np.zeros(len(codes)), np.zeros(len(codes))
    met = np.zeros(len(codes), bool)
    weights = np.broadcast_to(row * column, codes.shape)
    for i, code in enumerate(codes):
        signal, weight = signals[i].astype(np.float64), weights[i].astype(np.float64)
        support, values = _settle(signal, atoms, weight, code, nonneg=nonneg)
        stored = values.astype(codes.dtype)
        value[i], gap[i] = _certificate(signal, atoms, weight, support, values, stored, nonneg=nonneg)
        met[i] = value[i] > 0 and gap[i] <= tol * value[i]
        if met[i]:
            found[i] = 0
            found[i, support] = stored
    return Polished(found, value.astype(codes.dtype), gap.astype(codes.dtype), met)


def _settle(
    signal: Float[np.ndarray, " input_dim"],
    atoms: Float[np.ndarray, "num_latents input_dim"],
    weight: Float[np.ndarray, " num_latents"],
    code: Float[np.ndarray, " num_latents"],
    *,
    nonneg: bool,
) -> tuple[Int[np.ndarray, " size"], Float[np.ndarray, " size"]]:
    """The support and its values at the minimum, or as far as the steps and the independence of the atoms go."""
    support = np.flatnonzero(code)
    sign, size = np.sign(code[support]).astype(np.float64), np.abs(code[support]).astype(np.float64)
    for _ in range(STEPS):
        chosen = sign[:, None] * atoms[support]
        try:
            factor = scipy.linalg.cho_factor(chosen @ chosen.T, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            break
        aim = scipy.linalg.cho_solve(factor, chosen @ signal - weight[support], check_finite=False)
        if not np.all(np.isfinite(aim)):
            break
        falls = aim <= 0
        if np.any(falls):
            step = np.min(size[falls] / np.maximum(size[falls] - aim[falls], np.finfo(np.float64).tiny))
            size = size + step * (aim - size)
            kept = ~falls | (size > np.min(size[falls]))
            if step == 0 and not kept[-1]:
                # The atom that came in last is the one to go: only rounding told it from those that may stay out.
                support, sign, size = support[kept], sign[kept], size[kept]
                break
            support, sign, size = support[kept], sign[kept], size[kept]
            continue
        size = aim
        pull = atoms @ (signal - size @ chosen)
        excess = (pull if nonneg else np.abs(pull)) - weight
        excess[support] = -np.inf
        worst = int(np.argmax(excess))
        if excess[worst] <= _EXCESS * weight[worst]:
            break
        support, sign, size = np.append(support, worst), np.append(sign, np.sign(pull[worst])), np.append(size, 0.0)
    return support, sign * size


def _certificate(signal, atoms, weight, support, exact, stored, *, nonneg):
    """The objective of the stored values and their duality gap, with the residual of the exact ones as the dual candidate."""
    theta = signal - exact @ atoms[support]
    rest = signal - stored.astype(np.float64) @ atoms[support]
    pull = atoms @ theta
    steep = pull if nonneg else np.abs(pull)
    scale = np.min(np.divide(weight, steep, out=np.ones_like(steep), where=steep > weight))
    linear = weight[support] @ np.abs(stored)
    gap = 0.5 * np.sum((rest - scale * theta) ** 2) + linear - scale * (stored @ pull[support])
    return 0.5 * rest @ rest + linear, max(gap, 0.0)


__all__ = ["STEPS", "Polished", "polish"]
