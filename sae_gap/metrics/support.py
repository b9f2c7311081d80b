"""Recovery of the support: which latents are on in a sample, after matching the dictionaries."""

import scipy.sparse

from sae_gap.core import AnyCodes, Column, Match
from sae_gap.metrics import Inferred, Metric, ratio

# A latent is on above this magnitude.
_ON = 1e-4


def support_recovery(
    match: Match,
    true_codes: AnyCodes,
    codes: AnyCodes,
) -> dict[str, float]:
    """Mean over samples of the precision, recall and F1 of the support, and the mean number of
    codes above 1e-4.

    With T the true support `|z| > 1e-4` and P the support of the matched code columns, per sample
    `precision = |P ∩ T| / |P|`, `recall = |P ∩ T| / |T|` and
    `F1 = 2 precision recall / (precision + recall) = 2 |P ∩ T| / (|P| + |T|)`, each 0 where
    undefined. Code columns that are no true atom's partner count in `support_l0` only.

    Args:
      match: match of the learned with the true dictionary.
      true_codes: true codes, (n, num_true), dense or sparse.
      codes: inferred codes of the same samples, (n, num_learned), likewise.

    Returns:
      `support_precision`, `support_recall`, `support_f1` in [0, 1], and `support_l0`, the mean
      number of code columns above 1e-4.
    """
    true_on, every_on = (abs(scipy.sparse.csr_array(part)) > _ON for part in (true_codes, codes))
    # A missing partner is never on.
    paired = match.learned >= 0
    on = every_on[:, match.learned[paired]]
    hits = (true_on[:, paired] * on).sum(axis=1)
    num_on, num_true = on.sum(axis=1), true_on.sum(axis=1)
    return {
        "support_precision": float(ratio(hits, num_on).mean()),
        "support_recall": float(ratio(hits, num_true).mean()),
        "support_f1": float(ratio(2 * hits, num_on + num_true).mean()),
        "support_l0": float(every_on.sum(axis=1).mean()),
    }


def measure(inferred: Inferred) -> dict[str, float]:
    """`support_recovery` of every scored split, with known truth and a learned dictionary."""
    match = inferred.match
    if match is None:
        return {}
    return inferred.with_truth(lambda _, truth, codes: support_recovery(match, truth, codes))


METRIC = Metric(
    "support",
    measure,
    {
        "support_f1": Column("support F1", 1.0, "F1"),
        "support_precision": Column("support precision", 1.0, "P"),
        "support_recall": Column("support recall", 1.0, "R"),
        "support_l0": Column("latents above 1e-4", heading="L0 > 1e-4"),
    },
)
