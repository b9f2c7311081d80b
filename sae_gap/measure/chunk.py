"""The gap of one chunk of activations, as sums that those of other chunks add to."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sae_gap.core import lasso_problem
from sae_gap.data.activations import Activations
from sae_gap.measure.overlap import support_overlap
from sae_gap.measure.parts import gap_sums
from sae_gap.measure.refit import lasso_on_support
from sae_gap.measure.subject import Subject
from sae_gap.measure.summary import pack
from sae_gap.runtime import devices
from sae_gap.solvers import sparse_code

# Largest gaps that a chunk remembers.
WORST = 10


def measure_chunk(
    subject: Subject,
    activations: Activations,
    places: Int[np.ndarray, " n"],
    mean: Float[np.ndarray, " input_dim"],
    *,
    lam: float,
    lam_fraction: float | None = None,
) -> dict[str, Any]:
    """What the best codes of some activations are and, where there is an encoder, what its own cost above them.

    Args:
      subject: what to measure.
      activations: what the chunk is a part of.
      places: the numbers of its rows.
      mean: of all activations that the gap is summed over, (input_dim,).
      lam: the weight.
      lam_fraction: the weight of each sample as a fraction of its own λ_max; None takes `lam` for all.

    Returns:
      Columns of a row of kind "gap", which `gap_lines` sums.
    """
    x = activations.take(places)
    target, nonneg = devices.place(subject.target(x), devices.own_mesh()), not subject.signed
    weight: Any = jnp.full((len(x), 1), lam, target.dtype)
    if lam_fraction is not None:
        weight = lam_fraction * lasso_problem.lambda_max(target, subject.dictionary, nonneg=nonneg)[:, None]
    best = sparse_code(target, subject.dictionary, weight, nonneg=nonneg)
    certificates = np.asarray(best.gap) / np.where(np.asarray(best.objective) > 0, best.objective, 1)
    found: dict[str, Any] = {
        "samples": len(x),
        "optimum_active": int(np.count_nonzero(best.codes)),
        "optimum_error": _squares(x - np.asarray(subject.decode(best.codes, x))),
        "variance": _squares(x - mean),
        "certificate": float(certificates.max()),
        "unconverged": int(np.count_nonzero(~np.asarray(best.converged))),
        "used": pack(np.any(np.asarray(best.codes) != 0, axis=0)),
    }
    if subject.encode is not None:
        found |= _encoded(subject, activations, places, x, target, weight, best)
    return found


def _encoded(subject: Subject, activations: Activations, places, x, target, weight, best) -> dict[str, Any]:
    """What an encoder's codes add."""
    assert subject.encode is not None
    codes = subject.encode(target)
    fitted = lasso_problem.product(codes, subject.dictionary.T)
    support = lasso_on_support(target, subject.dictionary, codes != 0, weight, nonneg=not subject.signed)
    sums = gap_sums(target, fitted, codes, weight, support, best)
    own = lasso_problem.objective(target, subject.dictionary, codes, weight)
    gaps = np.asarray(own, np.float64) - np.asarray(best.objective, np.float64)
    worst = np.argsort(-gaps, kind="stable")[:WORST]
    documents = activations.documents
    overlap = support_overlap(codes, best.codes)
    return {
        **{f"sum_{name}": value for name, value in sums._asdict().items() if name != "samples"},
        "active": int(np.count_nonzero(codes)),
        "error": _squares(x - np.asarray(subject.decode(codes, x))),
        **{name: float(getattr(overlap, name).sum()) for name in ("jaccard", "precision", "recall")},
        "fired": pack(overlap.fired),
        "worst_index": [int(places[sample]) for sample in worst],
        "worst_document": None if documents is None else [int(documents[places[sample]]) for sample in worst],
        "worst_gap": [float(gaps[sample]) for sample in worst],
        "worst_relative_gap": [float(gaps[sample] / (best.objective[sample] or 1)) for sample in worst],
    }


def _squares(values: Float[np.ndarray, "n input_dim"]) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))


__all__ = ["measure_chunk"]
