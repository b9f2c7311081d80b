"""The gap of a model's own encoder above the lasso's optimum, and its parts.

An encoder that shrinks all of its codes alike, or that was never trained to shrink them as the l1
norm does, has a large gap for a trivial reason. So we split the gap `F(z_e) - F(z*)` along three
codes, each better than the one before,

  F(z_e) - F(z*) = [F(z_e) - F(a z_e)] + [F(a z_e) - F(z_s)] + [F(z_s) - F(z*)],

with `a ≥ 0` the best common scale of all codes, and `z_s` the best values on each sample's own
support.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from sae_gap.core import dense_chunks, squares
from sae_gap.encoders import Lasso, OnSupport
from sae_gap.metrics import Inferred, Metric

# How many of the largest gaps a row lists.
WORST = 10
# The columns of `overlap`.
_OVERLAP = "jaccard", "overlap_precision", "overlap_recall"


def measure(inferred: Inferred) -> dict[str, Any]:
    """The gap at the weight of the scored lasso codes, over the scored samples.

    The objective of scaled codes is
    `Σ F(a z_e) = Σ ½‖y‖² - a Σ⟨y, D z_e⟩ + ½ a² Σ‖D z_e‖² + a λ Σ‖z_e‖₁`, least at
    `a = max(0, (Σ⟨y, D z_e⟩ - λ Σ‖z_e‖₁) / Σ‖D z_e‖²)`.

    A duality gap certifies both optima: the true `relative_gap` is larger by at most
    `optimum_slack`, the true `values_share` by at most `support_slack`, and the true
    `support_share` is smaller by at most `support_slack` or larger by at most `optimum_slack`.

    Returns:
      Nothing for codes that are not a lasso's. For a lasso, `unconverged`, its samples beyond the
      tolerance, and `unused`, the number of latents that no code uses. For a model with an encoder
      also `gap`, the mean of F(z_e) - F(z*), and the `scale` a; as shares of F(z*) `relative_gap`,
      `scale_share`, `values_share`, `support_share`, and the duality gaps of z_s and z*,
      `support_slack` and `optimum_slack`; how far the supports agree (see `overlap`); the latents
      `fired_only` by the encoder and `used_only` by the optimum; and the samples with the largest
      gaps, `worst`, with their `worst_gap` and `worst_relative_gap`.
    """
    lasso, learner, counts = inferred.encoder, inferred.learner, inferred.counts
    if not isinstance(lasso, Lasso):
        return {}
    best: Any = inferred.infer(lasso)
    own = learner.encode
    every = (best if own is None else inferred.infer(own)).codes
    atoms, norms = map(np.asarray, inferred.unit_dictionary)
    target = np.asarray(inferred.split("id").signals - inferred.model.bias)
    fired, used = np.zeros((2, len(norms)), bool)
    parts = []
    for rows, mine, optimal in dense_chunks(every, best.codes):
        kept = counts[rows]
        y, z, on = target[rows][kept], mine[kept] * norms, optimal[kept] != 0
        fit = z @ atoms.T
        fired, used = fired | (z != 0).any(axis=0), used | on.any(axis=0)
        sums = (
            0.5 * squares(y),
            np.einsum("ij,ij->i", y, fit, dtype=float),
            squares(fit),
            np.abs(z).sum(1, dtype=float),
        )
        parts.append([*sums, *overlap(z != 0, on)])
    converged, optimum, slack = (
        np.asarray(getattr(best, name), float)[counts] for name in ("converged", "objective", "gap")
    )
    found = {"unconverged": int((converged == 0).sum()), "unused": int((~used & ~fired).sum())}
    if own is None:
        return found
    held: Any = inferred.infer(OnSupport(own, lasso.lam, lasso.nonneg, 0.0))
    support, held_slack = (
        float(np.asarray(part, float)[counts].sum()) for part in (held.objective, held.gap)
    )
    energy, pull, spread, size, *agreed = np.concatenate(parts, axis=1)
    pull = pull - lasso.lam * size
    gaps = energy - pull + 0.5 * spread - optimum
    scale = max(0.0, pull.sum() / spread.sum()) if spread.sum() > 0 else 1.0
    scaled = energy.sum() - scale * pull.sum() + 0.5 * scale**2 * spread.sum()
    unit = optimum.sum() or len(gaps)
    worst = np.argsort(-gaps, kind="stable")[:WORST]
    relative = gaps[worst] / np.where(optimum[worst] > 0, optimum[worst], 1)
    return found | {
        "gap": gaps.mean(),
        "scale": scale,
        "relative_gap": gaps.sum() / unit,
        "scale_share": (gaps.sum() + optimum.sum() - scaled) / unit,
        "values_share": (scaled - support) / unit,
        "support_share": (support - optimum.sum()) / unit,
        "support_slack": held_slack / unit,
        "optimum_slack": slack.sum() / unit,
        **dict(zip(_OVERLAP, np.mean(agreed, axis=1), strict=True)),
        "fired_only": int((fired & ~used).sum()),
        "used_only": int((used & ~fired).sum()),
        "worst": np.flatnonzero(counts)[worst].tolist(),
        "worst_gap": gaps[worst].tolist(),
        "worst_relative_gap": relative.tolist(),
    }


def overlap(fired: Bool[np.ndarray, "n l"], used: Bool[np.ndarray, "n l"]) -> list[np.ndarray]:
    """How far the encoder's support E and the optimum's support O agree in each sample.

    Two empty supports agree fully; an empty and a non-empty one do not agree at all.

    Args:
      fired: E, (n, num_latents).
      used: O, (n, num_latents).

    Returns:
      `|E ∩ O|` over `|E ∪ O|`, over `|E|` and over `|O|`, each (n,).
    """
    both, either = (fired & used).sum(axis=1), (fired | used).sum(axis=1)
    sizes = either, fired.sum(axis=1), used.sum(axis=1)
    return [np.where(size > 0, both / np.maximum(size, 1), either == 0) for size in sizes]


METRIC = Metric("gap_parts", measure, everywhere=False)
