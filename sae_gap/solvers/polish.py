"""The last digits: codes that single precision brought near the optimum, but whose certificate its rounding hides."""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

# Changes of a support after which a sample is left as it came.
STEPS = 32
# Share of its weight that a correlation may exceed it by in double precision.
_EXCESS = 1e-10


def polish(
    signal: Float[np.ndarray, " input_dim"],
    atoms: Float[np.ndarray, "num_latents input_dim"],
    weight: Float[np.ndarray, " num_latents"],
    support: Int[np.ndarray, " size"],
    values: Float[np.ndarray, " size"],
    *,
    nonneg: bool,
) -> tuple[Int[np.ndarray, " new"], Float[np.ndarray, " new"], float, float]:
    """Go on from codes near the optimum in double precision by an active-set method.

    With S the support, each step solves `D_Sᵀ D_S z_S = D_Sᵀ y - λ_S sign(z_S)` and goes there as far as no sign changes. It
    drops the code that vanishes on the way or, where none does, takes in the atom that most exceeds its weight. Where no
    atom does, the codes are the minimiser.

    Args:
      signal: `(input_dim,)`.
      atoms: `(num_latents, input_dim)`, in double precision.
      weight: `(num_latents,)`, λ.
      support: the latents of the codes.
      values: the codes, none of them zero; the result is rounded to their type.
      nonneg: whether codes are constrained to be non-negative.

    Returns:
      The support, the rounded codes on it, and their objective and duality gap.

    References:
      Osborne, Presnell & Turlach (2000), "A new approach to variable selection in least squares problems", IMA J. Numer. Anal.
    """
    signal, weight = signal.astype(np.float64), weight.astype(np.float64)
    support, exact = _settle(signal, atoms, weight, support, values.astype(np.float64), nonneg=nonneg)
    stored = exact.astype(values.dtype)
    # The residual of the exact codes is the dual candidate; see `lasso_problem.certificate`.
    theta, rest = (signal - codes @ atoms[support] for codes in (exact, stored.astype(np.float64)))
    pull = atoms @ theta
    steep = pull if nonneg else np.abs(pull)
    scale = np.min(np.divide(weight, steep, out=np.ones_like(steep), where=steep > weight))
    linear = weight[support] @ np.abs(stored)
    gap = 0.5 * np.sum((rest - scale * theta) ** 2) + linear - scale * (stored @ pull[support])
    return support, stored, 0.5 * rest @ rest + linear, max(gap, 0.0)


def _settle(signal, atoms, weight, support, values, *, nonneg):
    """The support and its values at the minimum, or as far as the steps and the independence of the atoms go."""
    sign, size = np.sign(values), np.abs(values)
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
            # The atom that came in last goes at once: only rounding told it from those that may stay out.
            ended = step == 0 and not kept[-1]
            support, sign, size = support[kept], sign[kept], size[kept]
            if ended:
                break
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
