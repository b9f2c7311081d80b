"""Recovery of the latents: the mean correlation coefficient (MCC) of inferred with true codes.

Two estimators. `mcc` is the suite's own, and the same on every split. `mcc_paper` is the published form, kept so that numbers
can be compared with the paper's; it averages noise columns into the ID score and preselects columns on the OOD one.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from sae_gap import matching
from sae_gap.metrics.base import SCORED, Inferred

# The paper's threshold for a true latent that takes part in a split.
_ACTIVE_VARIANCE = 1e-8


def mcc(true_codes: Float[ArrayLike, "n true"], codes: Float[ArrayLike, "n learned"]) -> float:
    """Mean correlation coefficient over the true latents that are active in the split.

    `MCC = (1/|S|) max_π Σ_{j in S} |corr(z_j, ẑ_π(j))|`, with S the true columns of variance above 1e-8 and π one-to-one into
    all code columns. Nothing is padded and nothing preselected. A constant code column correlates 0, and if there are fewer
    code columns than active true ones, those that stay without a partner count 0.

    Args:
      true_codes: true codes, (n, num_true).
      codes: inferred codes of the same samples, (n, num_learned), of any width, order, sign and scale.

    Returns:
      The MCC, in [0, 1].

    Raises:
      ValueError: an argument is not a finite, non-empty matrix, their samples differ in number, or no true column is active.

    References:
      Hyvärinen & Morioka (2016), "Unsupervised feature extraction by time-contrastive learning", NeurIPS.
    """
    truth, codes, active = _check(true_codes, codes)
    # A constant column would add 0 to whatever it is assigned to, so leaving it out is exact, and saves most of the work on
    # sparse codes.
    varying = codes.min(axis=0) < codes.max(axis=0)
    if not varying.any():
        return 0.0
    scores = matching.correlations(truth[:, active], codes[:, varying])
    return float(scores[matching.assign(scores)].sum(dtype=np.float64) / active.sum())


def mcc_paper(
    true_codes: Float[ArrayLike, "n true"], codes: Float[ArrayLike, "n learned"], split: str, *, seed: int = 0
) -> float:
    """Mean correlation coefficient as published.

    On "id": active true columns against all code columns, the narrower side padded with N(0, 1) noise columns, the padded pairs
    averaged in. On "ood": the n_a active true columns against the n_a code columns of largest variance, padded likewise should
    the codes be narrower than that.

    Args:
      true_codes: true codes, (n, num_true).
      codes: inferred codes of the same samples, (n, num_learned).
      split: "id" or "ood".
      seed: seeds the noise, so that the score is a function of its arguments.

    Returns:
      The MCC, in [0, 1].

    Raises:
      ValueError: as `mcc`, or an unknown split.

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744.
    """
    if split not in ("id", "ood"):
        raise ValueError(f'split must be "id" or "ood", but it is {split!r}.')
    truth, codes, active = _check(true_codes, codes)
    truth = truth[:, active]
    if split == "ood":
        variance = codes.var(axis=0, dtype=np.float64)
        codes = codes[:, np.argsort(-variance, kind="stable")[: truth.shape[1]]]
    width = max(truth.shape[1], codes.shape[1])
    rng = np.random.default_rng(seed)
    # The assignment adds a row at a time, and a row of noise added to a matched set rebuilds much of it. The noise mostly
    # stands for true columns, so codes are the rows: at 10,000 latents that is over ten times faster than the other way
    # round.
    scores = matching.correlations(_pad(codes, width, rng), _pad(truth, width, rng))
    return float(scores[matching.assign(scores)].mean(dtype=np.float64))


def _check(
    true_codes: Float[ArrayLike, "..."], codes: Float[ArrayLike, "..."]
) -> tuple[Float[np.ndarray, "n true"], Float[np.ndarray, "n learned"], Bool[np.ndarray, " true"]]:
    truth, inferred = matching.as_matrix("true_codes", true_codes), matching.as_matrix("codes", codes)
    matching.require_same_samples("true_codes", truth, "codes", inferred)
    active = truth.var(axis=0, dtype=np.float64) > _ACTIVE_VARIANCE
    if not active.any():
        raise ValueError("true_codes have no column of variance above 1e-8, so there is nothing to recover; give more samples.")
    return truth, inferred, active


def _pad(columns: Float[np.ndarray, "n columns"], width: int, rng: np.random.Generator) -> Float[np.ndarray, "n width"]:
    missing = width - columns.shape[1]
    if missing == 0:
        return columns
    return np.hstack([columns, rng.standard_normal((columns.shape[0], missing), dtype=columns.dtype)])


def measure(inferred: Inferred) -> dict[str, float]:
    """`mcc` and `mcc_paper` of every scored split whose true codes are known and not constant."""
    found = {}
    for name in SCORED:
        truth = inferred.split(name).codes
        if truth is not None and np.any(np.var(np.asarray(truth), axis=0, dtype=np.float64) > _ACTIVE_VARIANCE):
            found[f"mcc_{name}"] = mcc(truth, inferred.codes[name])
            found[f"mcc_paper_{name}"] = mcc_paper(truth, inferred.codes[name], name)
    return found
