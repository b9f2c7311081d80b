"""Recovery of the latents: the mean correlation coefficient (MCC) of inferred with true codes.

`mcc` is the suite's own estimator, the same on every split. `mcc_paper` is the published form, kept
so that numbers can be compared with the paper's; it averages noise columns into the ID score and
preselects columns for the OOD score. Recovery of the support, after matching the dictionaries, is
which latents are on in a sample.
"""

from contextlib import nullcontext

import numpy as np
import scipy

from sae_gap.core import (
    AnyCodes,
    Column,
    Match,
    active_columns,
    check_choice,
)
from sae_gap.core.matching import as_matrix, correlations
from sae_gap.metrics import Inferred, Metric, Overlap, fires
from sae_gap.runtime import one_blas_thread

# The paper's variance above which a true latent takes part in a split.
_ACTIVE_VARIANCE = 1e-8
# The published form pads with noise up to the width of the codes. At a million columns nearly all
# pairs would be noise against constants, which say nothing and fit in no memory.
_WIDEST_PADDED = 20_000
# A smaller product runs faster on one thread than it takes to start others.
_FEW_PRODUCTS = 2**28
# A latent is on above this magnitude.
_ON = 1e-4


def mcc(
    true_codes: AnyCodes,
    codes: AnyCodes,
) -> float:
    """Mean correlation coefficient over the true latents that are active in the split.

    `MCC = (1/|S|) max_π Σ_{j in S} |corr(z_j, ẑ_π(j))|`, with S the true columns of variance above
    1e-8 and π one-to-one into all code columns. Nothing is padded or preselected. A constant code
    column correlates 0, and so do active true columns without a partner, if there are fewer code
    columns.

    Args:
      true_codes: true codes, (n, num_true), dense or sparse.
      codes: inferred codes of the same samples, (n, num_learned), of any width, order, sign and
        scale, likewise.

    Returns:
      The MCC, in [0, 1].

    Raises:
      ValueError: an argument is not a finite, non-empty matrix, their samples differ in number, or
        no true column is active.

    References:
      Hyvärinen & Morioka (2016), "Unsupervised feature extraction by time-contrastive learning",
      NeurIPS.
    """
    truth, inferred, _ = _check(true_codes, codes)
    return _matched(truth, inferred) / truth.shape[1]


def mcc_paper(
    true_codes: AnyCodes,
    codes: AnyCodes,
    split: str,
) -> float:
    """Mean correlation coefficient as published.

    On "id": active true columns against all code columns, the narrower side padded with N(0, 1)
    noise columns, the same ones at each call, the padded pairs averaged in. On "ood": the n_a
    active true columns against the n_a code columns of largest variance, padded likewise should the
    codes be narrower than that.

    Args:
      true_codes: true codes, (n, num_true).
      codes: inferred codes of the same samples, (n, num_learned).
      split: "id" or "ood".

    Returns:
      The MCC, in [0, 1].

    Raises:
      ValueError: as `mcc`, or an unknown split.

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744.
    """
    check_choice("split", split, ("id", "ood"))
    truth, inferred, num_columns = _check(true_codes, codes)
    if split == "ood":
        variance = inferred.var(axis=0, dtype=float)
        inferred = inferred[:, np.argsort(-variance, kind="stable")[: truth.shape[1]]]
        num_columns = min(num_columns, truth.shape[1])
    width = max(truth.shape[1], num_columns)
    rng = np.random.default_rng(0)

    def padded(columns: np.ndarray, count: int) -> np.ndarray:
        noise = rng.standard_normal((len(columns), width - count), columns.dtype)
        return np.hstack([columns, noise])

    inferred = padded(inferred, num_columns)
    truth = padded(truth, truth.shape[1])
    # Pairs with the constant columns left out count as 0.
    return _matched(truth, inferred) / width


def _matched(truth: np.ndarray, inferred: np.ndarray) -> float:
    """The sum of the correlations of the best pairs."""
    if not inferred.shape[1]:
        return 0.0
    few = truth.size * inferred.shape[1] <= _FEW_PRODUCTS
    with one_blas_thread() if few else nullcontext():
        scores = correlations(truth, inferred)
    pairs = scipy.optimize.linear_sum_assignment(scores, maximize=True)
    return float(scores[pairs].sum(dtype=float))


def _check(true_codes: AnyCodes, codes: AnyCodes) -> tuple[np.ndarray, np.ndarray, int]:
    """The active true columns, (n, active), the code columns that vary, (n, varying), and the
    number of all code columns.

    A constant column would add 0 to its pair, so leaving it out is exact, and saves most of the
    work on sparse codes.
    """
    truth = as_matrix("true_codes", active_columns(true_codes)[0])
    inferred = as_matrix("codes", active_columns(codes)[0])
    if len(truth) != len(inferred):
        raise ValueError(
            f"true_codes and codes must hold the same samples, but have {len(truth)} and "
            f"{len(inferred)} rows."
        )
    active = _is_active(truth)
    if not active.any():
        raise ValueError(
            "true_codes have no column of variance above 1e-8, so there is nothing to recover; "
            "give more samples."
        )
    varies = inferred.min(axis=0) < inferred.max(axis=0)
    return truth[:, active], inferred[:, varies], np.shape(codes)[1]


def _is_active(columns: np.ndarray) -> np.ndarray:
    return columns.var(axis=0, dtype=float) > _ACTIVE_VARIANCE


def measure(inferred: Inferred) -> dict[str, float]:
    """`mcc` and `mcc_paper` of every scored split whose true codes are known and not constant.

    `mcc_paper` is left out above 20,000 latents: see the note on its padding.
    """

    def score(name: str, truth: AnyCodes, codes: AnyCodes) -> dict[str, float]:
        if not np.any(_is_active(active_columns(truth)[0])):
            return {}
        found = {"mcc": mcc(truth, codes)}
        if codes.shape[1] <= _WIDEST_PADDED:
            found["mcc_paper"] = mcc_paper(truth, codes, name)
        return found

    return inferred.with_truth(score)


METRIC = Metric(
    "recovery",
    measure,
    {
        "mcc": Column("MCC", 1.0, "MCC"),
        "mcc_paper": Column("MCC (published form)", 1.0, "MCC paper"),
    },
)


def support_recovery(
    match: Match,
    true_codes: AnyCodes,
    codes: AnyCodes,
) -> dict[str, float]:
    """Mean over samples of the precision, recall and F1 of the support, and the mean number of
    codes above 1e-4.

    They are those of `Overlap`, of the true support `|z| > 1e-4` and the support of the matched
    code columns in each sample. Code columns that are no true atom's partner count in
    `support_l0` only.

    Args:
      match: match of the learned with the true dictionary.
      true_codes: true codes, (n, num_true), dense or sparse.
      codes: inferred codes of the same samples, (n, num_learned), likewise.

    Returns:
      `support_precision`, `support_recall`, `support_f1` in [0, 1], and `support_l0`, the mean
      number of code columns above 1e-4.
    """
    true_on = fires(true_codes, _ON)
    every_on = fires(codes, _ON)
    # A missing partner is never on.
    paired = match.learned >= 0
    on = every_on[:, match.learned[paired]]
    overlap = Overlap.of(on, true_on[:, paired], axis=1)
    overlap = overlap._replace(true=true_on.sum(axis=1))
    return {
        "support_precision": float(overlap.precision.mean()),
        "support_recall": float(overlap.recall.mean()),
        "support_f1": float(overlap.f1.mean()),
        "support_l0": float(every_on.sum(axis=1).mean()),
    }


def _support(inferred: Inferred) -> dict[str, float]:
    """`support_recovery` of every scored split, with known truth and a learned dictionary."""
    match = inferred.match
    if not match:
        return {}

    def score(name: str, truth: AnyCodes, codes: AnyCodes) -> dict[str, float]:
        return support_recovery(match, truth, codes)

    return inferred.with_truth(score)


SUPPORT = Metric(
    "support",
    _support,
    {
        "support_f1": Column("support F1", 1.0, "F1"),
        "support_precision": Column("support precision", 1.0, "P"),
        "support_recall": Column("support recall", 1.0, "R"),
        "support_l0": Column("latents above 1e-4", heading="L0 > 1e-4"),
    },
)
