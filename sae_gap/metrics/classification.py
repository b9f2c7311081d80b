"""Predicts the label from the codes: by a logistic probe, unregularised unless asked, and by the
best single latent.

Fitting and scoring are separate, so that the two protocols differ only in the split for the fit:
the published one fits on the ID split, which makes the ID score a training score; the strict one
fits on the training split.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from numpy import asarray, mean, zeros

from sae_gap.core import Column, active_columns, columns_of, slices
from sae_gap.metrics import Inferred, Metric

# On separable codes the likelihood has no maximum, so the probe depends on the tolerance at which
# L-BFGS stops. We take scikit-learn's tolerances, as the published accuracies did.
_OPTIONS = {
    "maxiter": 1_000,
    "maxls": 50,
    "gtol": 1e-4,
    "ftol": 64 * np.finfo(float).eps,
}
_COLUMNS_AT_A_TIME = 1_024


class LogisticProbe(NamedTuple):
    """A fitted logistic probe: it answers "true" where `decide` is above 0."""

    weights: Float[np.ndarray, " latent"]
    intercept: float

    def decide(self, codes: Float[np.ndarray, "n latent"]) -> Float[np.ndarray, " n"]:
        """The log-odds `z·w + b` of each row."""
        # Equal rows must tie: a matrix product rounds each by its place.
        return np.einsum("ij,j->i", codes, self.weights) + self.intercept


def fit_logistic(
    codes: Float[ArrayLike, "n latent"],
    labels: Bool[ArrayLike, " n"],
    strength: float = 0.0,
) -> LogisticProbe:
    """Fits a logistic regression with an intercept.

    `min_{w, b} (1/n) Σ_i log(1 + exp(-s_i (w·z_i + b))) + ½ μ ‖w‖²` with s_i = ±1, by L-BFGS from
    zero until the largest gradient entry is below 1e-4. Without a penalty, where the optimum is
    flat or does not exist, the start, the tolerance and so the scale of the codes choose between
    probes that fit equally well. These can differ widely off the fitted distribution, on latents
    that say little within it; the AUC of one latent has no such freedom.

    Args:
      codes: (n, num_latents).
      labels: (n,), booleans.
      strength: weight μ ≥ 0 of the l2 penalty; scikit-learn's `C` is 1 / (n μ).

    Returns:
      The probe. If only one class is present, it always answers that class.

    References:
      Pedregosa et al. (2011), "Scikit-learn: machine learning in Python", JMLR 12
      (`LogisticRegression` without penalty).
    """
    codes = asarray(codes)
    labels = asarray(labels)
    signs = np.where(labels, 1.0, -1.0)
    if labels.all() or not labels.any():
        return LogisticProbe(zeros(codes.shape[1]), signs[0])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        margins = signs * (codes @ weights.astype(codes.dtype) + parameters[-1])
        residuals = -signs * scipy.special.expit(-margins) / len(signs)
        gradient = np.append(
            residuals.astype(codes.dtype) @ codes + strength * weights, residuals.sum()
        )
        penalty = 0.5 * strength * weights @ weights
        return np.logaddexp(0, -margins).mean() + penalty, gradient

    fitted = scipy.optimize.minimize(
        loss,
        zeros(codes.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        options=_OPTIONS,
    )
    return LogisticProbe(fitted.x[:-1], float(fitted.x[-1]))


def roc_auc(
    codes: Float[ArrayLike, "n latent"], labels: Bool[ArrayLike, " n"]
) -> Float[np.ndarray, " latent"]:
    """Area under the ROC curve of every latent as a score.

    `AUC_j = P(z_j⁺ > z_j⁻) + ½ P(z_j⁺ = z_j⁻)` over pairs of a positive and a negative sample, from
    mid-ranks, so that ties are exact.

    Args:
      codes: (n, num_latents).
      labels: (n,), booleans.

    Returns:
      One AUC per latent; 0.5 for a constant latent, and for all if only one class is present.

    References:
      Hanley & McNeil (1982), "The meaning and use of the area under a ROC curve", Radiology 143(1).
    """
    codes = asarray(codes)
    labels = asarray(labels, bool)
    num_positive = int(labels.sum())
    pairs = num_positive * (len(labels) - num_positive)
    if pairs == 0:
        return np.full(codes.shape[1], 0.5)
    # Loading scipy.stats takes longer than the rest of a binary's --help.
    from scipy.stats import rankdata

    least = num_positive * (num_positive + 1) / 2
    areas = []
    for part in slices(codes.shape[1], _COLUMNS_AT_A_TIME):
        ranks = rankdata(codes[:, part].T, axis=1)
        areas.append((ranks[:, labels].sum(axis=1) - least) / pairs)
    return np.concatenate(areas)


def measure(inferred: Inferred) -> dict[str, float]:
    """`accuracy` and `auc` of every scored split, if the labels are known.

    The latent is the one that separates the classes best, `argmax_j max(AUC_j, 1 - AUC_j)`, the
    first on ties, in that direction: its AUC is below 0.5 on a split where it points the other way.
    The strict protocol fits the logistic probe and picks the latent on the training split, so that
    every score is held out. The published form uses the ID split, and takes `max(AUC, 1 - AUC)` on
    each split, which conceals a turned latent. `base_rate` is the accuracy of always answering the
    more frequent class. There are no scores if the fitted split has only one class.
    """
    published = inferred.protocol == "paper"
    fitted_on = "id" if published else "train"
    labels = inferred.split(fitted_on).labels
    if labels is None or not 0 < mean(labels) < 1:
        return {}
    fitted = inferred.codes[fitted_on]
    # A fit puts no weight on latents that are off on its whole split; with none left we keep the
    # first.
    latents = np.union1d([0], np.arange(fitted.shape[1])[active_columns(fitted)[1]])
    codes = {name: columns_of(part, latents) for name, part in inferred.codes.items()}
    logistic = fit_logistic(codes[fitted_on], labels)
    areas = roc_auc(codes[fitted_on], labels)
    latent = int(np.argmax(abs(areas - 0.5)))

    def score(name: str) -> dict[str, float]:
        labels = inferred.split(name).labels
        if labels is None:
            return {}
        share = float(mean(labels))
        right = (logistic.decide(codes[name]) > 0) == asarray(labels)
        scores = {"base_rate": max(share, 1 - share), "accuracy": float(right.mean())}
        if 0 < share < 1:
            (area,) = roc_auc(codes[name][:, [latent]], labels)
            turned = area < 0.5 if published else areas[latent] < 0.5
            scores["auc"] = float(1 - area if turned else area)
        return scores

    return inferred.by_split(score)


METRIC = Metric(
    "classification",
    measure,
    {
        "accuracy": Column("accuracy", 1.0, "acc"),
        "auc": Column("AUC", 1.0, "AUC"),
        "base_rate": Column("share of the more frequent class", heading=""),
    },
)
