"""What the amortisation gap is made of: the scale of the codes, their values, and their support.

An encoder that shrinks all of its codes alike, or that was never trained to shrink them as the l1 norm does, has a large gap
for a trivial reason. So the gap `F(z_e) - F(z*)` is split along three codes that each improve on the one before,

  F(z_e) - F(z*) = [F(z_e) - F(a z_e)] + [F(a z_e) - F(z_s)] + [F(z_s) - F(z*)],

with `a ≥ 0` the one best scale of all codes, and `z_s` the best values on each sample's own support. Sums over samples are all
that the parts need, so that activations may come in chunks.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core.types import Solution


class GapSums(NamedTuple):
    """Sums over samples, in float64; those of several chunks add up field by field.

    Attributes:
      samples: how many.
      energy: of `½‖y‖²`.
      pull: of `⟨y, D z_e⟩`.
      spread: of `‖D z_e‖²`.
      penalty: of `λ‖z_e‖₁`.
      support: of F(z_s).
      support_certificate: of the duality gaps of z_s, on the support.
      optimum: of F(z*).
      optimum_certificate: of the duality gaps of z*.
    """

    samples: int
    energy: float
    pull: float
    spread: float
    penalty: float
    support: float
    support_certificate: float
    optimum: float
    optimum_certificate: float

    def plus(self, other: "GapSums") -> "GapSums":
        """The sums over the samples of both."""
        sums = (one + more for one, more in zip(self[1:], other[1:], strict=True))
        return GapSums(self.samples + other.samples, *sums)


class GapParts(NamedTuple):
    """The gap, a mean over samples, and its parts, which sum to it.

    What is certified: `gap` lies below the true gap by at most `optimum_certificate`, `values_part` below the true part by at
    most `support_certificate`, and `support_part` may be above by `support_certificate` or below by `optimum_certificate`.
    The scale has a closed form.

    Attributes:
      scale: a, the one factor of all codes that lowers the objective most.
      scale_part: what it gains.
      values_part: what the best values on the own support gain beyond it.
      support_part: what the optimum gains beyond them.
      gap: F(z_e) - F(z*).
      optimum: F(z*), which relative gaps are over.
      support_certificate: mean duality gap of the codes on the own support.
      optimum_certificate: mean duality gap of the optimum.
    """

    scale: float
    scale_part: float
    values_part: float
    support_part: float
    gap: float
    optimum: float
    support_certificate: float
    optimum_certificate: float


def gap_sums(
    target: Float[ArrayLike, "n input_dim"],
    fitted: Float[ArrayLike, "n input_dim"],
    codes: Float[ArrayLike, "n num_latents"],
    lam: Float[ArrayLike, "..."],
    support: Solution,
    optimum: Solution,
) -> GapSums:
    """The sums that the parts of the gap need, over some samples.

    Args:
      target: y, (n, input_dim).
      fitted: `D z_e`, (n, input_dim).
      codes: z_e on unit atoms, (n, num_latents).
      lam: the weight, a scalar or one for each sample, (n,).
      support: z_s, the best codes on the support of z_e.
      optimum: z*.

    Returns:
      The sums.
    """
    y, fit = np.asarray(target, np.float64), np.asarray(fitted, np.float64)
    l1 = np.abs(np.asarray(codes)).sum(axis=1, dtype=np.float64)
    solved = [np.asarray(values, np.float64).sum() for one in (support, optimum) for values in (one.objective, one.gap)]
    penalty = np.asarray(lam, np.float64).reshape(-1) * l1
    return GapSums(
        len(y),
        0.5 * float(np.sum(y**2)),
        float(np.sum(y * fit)),
        float(np.sum(fit**2)),
        float(penalty.sum()),
        *(float(value) for value in solved),
    )


def gap_parts(sums: GapSums) -> GapParts:
    """The gap in its parts.

    The objective of scaled codes is `Σ F(a z_e) = Σ ½‖y‖² - a Σ⟨y, D z_e⟩ + ½ a² Σ‖D z_e‖² + a Σ λ‖z_e‖₁`, least at
    `a = max(0, (Σ⟨y, D z_e⟩ - Σ λ‖z_e‖₁) / Σ‖D z_e‖²)`.

    Args:
      sums: over all samples.

    Returns:
      Means over the samples.

    Raises:
      ValueError: there are no samples.
    """
    if sums.samples < 1:
        raise ValueError("there are no samples to take a mean over; give at least one.")

    def objective(scale: float) -> float:
        return sums.energy - scale * sums.pull + 0.5 * scale**2 * sums.spread + scale * sums.penalty

    scale = max(0.0, (sums.pull - sums.penalty) / sums.spread) if sums.spread > 0 else 1.0
    own, scaled, n = objective(1.0), objective(scale), sums.samples
    return GapParts(
        scale=scale,
        scale_part=(own - scaled) / n,
        values_part=(scaled - sums.support) / n,
        support_part=(sums.support - sums.optimum) / n,
        gap=(own - sums.optimum) / n,
        optimum=sums.optimum / n,
        support_certificate=sums.support_certificate / n,
        optimum_certificate=sums.optimum_certificate / n,
    )
