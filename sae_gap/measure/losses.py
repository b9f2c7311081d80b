"""How many nats an encoder's values, its support and the dictionary lose, from rows of codes by
their names (`sae_gap.measure.methods`).

With L(·) the loss of the network when the reconstructions of codes replace a layer's output, an
encoder's loss is the sum of

  values part      L(own) - L(own_refit)
  support part     L(own_refit) - L(best), which is the sum of
    selection part   L(own_refit) - L(proposed): the latent was proposed, and not taken
    screening part   L(proposed) - L(best): it was not proposed
  dictionary part  L(best) - L(best on the best dictionary at hand)
  rest             L(best on the best dictionary at hand)

Values and support part together are the

  amortisation part  L(own) - L(best)

of a transcoder as of an SAE: the MLP that it stands for computes the target from its input, so
that the best codes are a function of that input, too.

Here best is lasso_refit, omp, screened or weighted, whichever has the smallest divergence; better
codes may exist. A weighted pursuit also changes the norm, and the screening part then includes
that; measured by the FVU, it may be negative. The support part stays whole where pre-activations
do not show what an encoder proposes. The best dictionary has the best codes of least divergence at
the requested L0 closest to the encoder's. We do not split the loss of an encoder that is dead or
whose L0 is above a quarter of the dimensions. The 95 % intervals over documents are those of
`sae_gap.measure.comparison`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sae_gap.measure.comparison import FEW_DOCUMENTS, compare, parts
from sae_gap.storage.results import Row

# The losses to split: for each name, the columns of its sums by document and of their divisors.
LOSSES = {"kl": ("kl_sums", "tokens"), "ce": ("ce_sums", "tokens"), "fvu": ("errors", "variance")}
PARTS = ("values", "support", "dictionary")
# The parts of the support part, where they are known.
SUPPORT = ("selection", "screening")
# Candidates for the best codes of a dictionary.
BEST = ("lasso_refit", "omp", "screened", "weighted")
# Snap an L0 within 1 % of a requested or whole one to it, so that SAEs of similar L0 share the
# measurements of the best dictionary.
ALIKE = 0.01


def placed(l0: float, asked: Sequence[float]) -> Row:
    """The requested L0 closest by ratio to the encoder's, and the L0 used to split its loss."""
    near = min(asked, key=lambda each: max(each, l0) / min(each, l0)) if l0 else asked[0]
    taken = next((each for each in (near, round(l0)) if abs(l0 - each) <= ALIKE * each), l0)
    return {"near": near, "level": taken}


def best_at(
    rows: Iterable[Mapping[str, Any]], level: float, dictionary: str | None = None
) -> Mapping[str, Any] | None:
    """The row of the best codes at an L0, by their divergence, on one dictionary or on all; None if
    there is none.
    """
    there = (
        row
        for row in rows
        if row["codes"] in BEST
        and row["level"] == level
        and dictionary in (None, row["dictionary"])
    )
    return min(there, key=lambda row: row["kl"], default=None)


def over_documents(row: Mapping[str, Any]) -> str:
    """Says how many documents the intervals of a row cover; few hardly show how others differ."""
    count = int(np.count_nonzero(row["tokens"]))
    if count == 1:
        return "of a single document, so no interval"
    return f"over {'only ' if count < FEW_DOCUMENTS else ''}{count} documents"


def split_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Splits each encoder's loss into its parts; the divergence decides which codes and which
    dictionary are the best.

    Args:
      rows: of a study with the metric `nats`, one for each dictionary, codes and level.

    Returns:
      A line for each encoder and each of `LOSSES`, if own, own_refit and one of `BEST` were
      measured: the `loss`; the mean L0 of these codes (`l0`, `refit_l0`, `own_best_l0`) and of the
      codes on the `best` dictionary (`best_l0`); the names of the best codes on its own dictionary
      (`own_best_codes`) and on the best (`best_codes`); `total`, the loss above the clean model's;
      the parts that sum to it, `values_part`, `support_part`, `dictionary_part` and `rest`;
      `selection_part` and `screening_part`, which sum to the support part and are None without
      "proposed"; `amortisation_part`, the sum of values and support part; and the ends of the
      interval of each but the rest, `<part>_low` and `<part>_high`.
    """
    rows = list(rows)
    scored = {(row["dictionary"], row["level"], row["codes"]): row for row in rows}
    lines: list[Row] = []
    for (name, level, codes), own in scored.items():
        at = best_at(rows, own["near"]) if codes == "own" and not own["dead"] else None
        if at is None:
            continue
        refit, proposed, mine, best = (
            *(scored.get((name, level, other)) for other in ("own_refit", "proposed")),
            *(best_at(rows, level, on) for on in (name, at["dictionary"])),
        )
        if refit is None or mine is None or best is None:
            continue
        about: Row = {
            "dictionary": name,
            "best": best["dictionary"],
            "level": level,
            "l0": own["l0"],
            "refit_l0": refit["l0"],
            "own_best_codes": mine["codes"],
            "own_best_l0": mine["l0"],
            "best_codes": best["codes"],
            "best_l0": best["l0"],
        }
        pairs = {"dictionary": (best, mine), "amortisation": (mine, own)} | parts(
            own, refit, proposed, mine
        )
        for loss, (column, unit) in LOSSES.items():
            base = sum(own["ce_clean"]) if loss == "ce" else 0.0
            line = about | {"loss": loss}
            for total, row in {"total": own, "rest": best}.items():
                line[total] = (sum(row[column]) - base) / sum(own[unit])
            line |= {f"{part}_{end}": None for part in SUPPORT for end in ("part", "low", "high")}
            for part, (better, worse) in pairs.items():
                lost = compare(better[column], worse[column], own[unit])
                line[f"{part}_part"] = lost.more
                line[f"{part}_low"], line[f"{part}_high"] = lost.low, lost.high
            lines.append(line)
    return lines
