"""The gap of one chunk of activations, as sums that those of other chunks add to, and the parts of
the gap that they make.

An encoder that shrinks all of its codes alike, or that was never trained to shrink them as the l1
norm does, has a large gap for a trivial reason. So the gap `F(z_e) - F(z*)` is split along three
codes that each improve on the one before,

  F(z_e) - F(z*) = [F(z_e) - F(a z_e)] + [F(a z_e) - F(z_s)] + [F(z_s) - F(z*)],

with `a ≥ 0` the one best scale of all codes, and `z_s` the best values on each sample's own
support.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import lasso_problem
from sae_gap.core.rows import squares
from sae_gap.core.types import Solution
from sae_gap.measure.coding import lasso
from sae_gap.runtime import devices
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code

# Largest gaps that a chunk remembers.
WORST = 10


def measure_chunk(
    sae: SAE,
    x: Float[np.ndarray, "n input_dim"],
    mean: Float[np.ndarray, " input_dim"],
    lam: float,
    rows: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"] | None,
) -> dict[str, Any]:
    """What the best codes of some activations are and, where there is an encoder, what its own cost
    above them.

    Args:
      sae: what to measure.
      x: the activations, (n, input_dim).
      mean: of all activations that the gap is summed over, (input_dim,).
      lam: the weight.
      rows: the number of each, by which the worst are told.
      documents: that of each, where they are named.

    Returns:
      Columns of a row of kind "gap", which `gap_lines` sums.
    """
    target, dictionary = devices.place(sae.target(x), devices.own_mesh()), sae.unit_dictionary
    best = lasso(sae, lam)(target, slice(None))
    used = np.asarray(best.codes) != 0

    def error(codes):
        return float(squares(x - np.asarray(sae.decode_target(codes, x))).sum())

    found: dict[str, Any] = {
        "samples": len(x),
        "optimum_active": int(used.sum()),
        "optimum_error": error(best.codes),
        "variance": float(squares(x - mean).sum()),
        "certificate": float(lasso_problem.relative_gap(best).max()),
        "unconverged": int(np.count_nonzero(~np.asarray(best.converged))),
        "used": pack(used.any(axis=0)),
    }
    if sae.model.encode is None:
        return found
    codes = sae.encode_target(target)
    fired = np.asarray(codes) != 0
    support = sparse_code(target, dictionary, lam, nonneg=not sae.signed, support=fired)
    objective = lasso_problem.objective(target, dictionary, codes, lam)
    gaps = np.asarray(objective, np.float64) - np.asarray(best.objective, np.float64)
    worst = np.argsort(-gaps, kind="stable")[:WORST]
    found |= gap_sums(target, dictionary, codes, lam, support, best) | overlap(fired, used)
    return found | {
        "active": int(fired.sum()),
        "error": error(codes),
        "fired": pack(fired.any(axis=0)),
        "worst_index": rows[worst],
        "worst_document": None if documents is None else documents[worst],
        "worst_gap": gaps[worst],
        "worst_relative_gap": gaps[worst]
        / np.where(best.objective[worst] > 0, best.objective[worst], 1),
    }


def gap_sums(
    target: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[Array, "n num_latents"],
    lam: float,
    support: Solution,
    optimum: Solution,
) -> dict[str, float]:
    """The sums that the parts of the gap need, over some samples, in float64.

    Args:
      target: y, (n, input_dim).
      dictionary: D, unit atoms, (input_dim, num_latents).
      codes: z_e, (n, num_latents).
      lam: the weight.
      support: z_s, the best codes on the support of z_e.
      optimum: z*.

    Returns:
      Columns of sums of `½‖y‖²` (energy), `⟨y, D z_e⟩` (pull), `‖D z_e‖²` (spread), `λ‖z_e‖₁`
      (penalty), and of the objectives and duality gaps of z_s and z*.
    """
    y, fit = (
        np.asarray(target, np.float64),
        np.asarray(lasso_problem.product(codes, dictionary.T), np.float64),
    )
    terms = {
        "energy": 0.5 * y**2,
        "pull": y * fit,
        "spread": fit**2,
        "penalty": lam * np.abs(np.asarray(codes)).sum(dtype=np.float64),
        "support": support.objective,
        "support_certificate": support.gap,
        "optimum": optimum.objective,
        "optimum_certificate": optimum.gap,
    }
    return {
        f"sum_{name}": float(np.sum(np.asarray(term, np.float64))) for name, term in terms.items()
    }


def overlap(fired: np.ndarray, used: np.ndarray) -> dict[str, float]:
    """Sums over samples of how far the encoder's support E and that of the optimum O agree.

    Two empty supports agree fully; an empty one and another do not at all.

    Args:
      fired: E, (n, num_latents).
      used: O, (n, num_latents).

    Returns:
      Sums of `|E ∩ O|` over `|E ∪ O|` (jaccard), `|E|` (precision) and `|O|` (recall).
    """
    both, either = (fired & used).sum(axis=1), (fired | used).sum(axis=1)
    sizes = {"jaccard": either, "precision": fired.sum(axis=1), "recall": used.sum(axis=1)}
    return {
        name: float(np.where(size > 0, both / np.maximum(size, 1), either == 0).sum())
        for name, size in sizes.items()
    }


def gap_parts(sums: Mapping[str, float], samples: int) -> dict[str, float]:
    """The gap and its parts, which sum to it, as means over samples and as shares of F(z*).

    The objective of scaled codes is
    `Σ F(a z_e) = Σ ½‖y‖² - a Σ⟨y, D z_e⟩ + ½ a² Σ‖D z_e‖² + a Σ λ‖z_e‖₁`, least at
    `a = max(0, (Σ⟨y, D z_e⟩ - Σ λ‖z_e‖₁) / Σ‖D z_e‖²)`.

    What is certified: `relative_gap` lies below the true one by at most `optimum_slack`,
    `values_share` below the true one by at most `support_slack`, and `support_share` may be above
    by `support_slack` or below by `optimum_slack`. The scale has a closed form.

    Args:
      sums: over all samples, as `gap_sums` names them.
      samples: how many.

    Returns:
      Columns: `gap`, the mean of F(z_e) - F(z*), and the `scale` a; and as shares of F(z*)
        `relative_gap`, what the scale gains
      (`scale_share`), what the best values on the own support gain beyond it (`values_share`), what
      the optimum gains beyond them (`support_share`), and the duality gaps of z_s and z*
      (`support_slack`, `optimum_slack`).
    """
    pull, spread = sums["sum_pull"] - sums["sum_penalty"], sums["sum_spread"]
    support, optimum = sums["sum_support"], sums["sum_optimum"]
    scale = max(0.0, pull / spread) if spread > 0 else 1.0
    own, scaled = (sums["sum_energy"] - a * pull + 0.5 * a**2 * spread for a in (1.0, scale))
    unit = optimum or samples
    return {
        "gap": (own - optimum) / samples,
        "scale": scale,
        "relative_gap": (own - optimum) / unit,
        "scale_share": (own - scaled) / unit,
        "values_share": (scaled - support) / unit,
        "support_share": (support - optimum) / unit,
        "support_slack": sums["sum_support_certificate"] / unit,
        "optimum_slack": sums["sum_optimum_certificate"] / unit,
    }


def pack(flags: Bool[np.ndarray, " num_latents"]) -> str:
    """Flags as hexadecimal digits, four to each, for a row to hold."""
    return np.packbits(flags).tobytes().hex()


def unpack(text: str, count: int) -> Bool[np.ndarray, " count"]:
    """The first `count` flags that `pack` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)
