"""How many nats are lost to an encoder's values, to its support and to the dictionary, read from
rows of codes by their names (`sae_gap.measure.methods`).

With L(·) the loss of the network with the reconstructions of each in the place of a layer, an
encoder's loss is the sum of

  values part      L(own) - L(own_refit)
  support part     L(own_refit) - L(best), which is the sum of
    selection part   L(own_refit) - L(proposed): the latent was proposed, and not taken
    screening part   L(proposed) - L(best): it was not proposed
  dictionary part  L(best) - L(best on the best dictionary at hand)
  rest             L(best on the best dictionary at hand)

where best is lasso_refit, omp, screened or weighted, whichever has the smallest divergence: better
codes may exist. A weighted pursuit changes the norm too, which the screening part then includes;
of the FVU that part may be negative. The support part stays whole where no pre-activations tell
what an encoder proposes. The best dictionary is the one whose best codes have the least divergence
at the asked L0 nearest the encoder's. An encoder whose L0 is above a quarter of the dimensions is
not split, nor is a dead one. Intervals of 95 % are those of `sae_gap.measure.comparison`, over
documents.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sae_gap.measure.comparison import FEW_DOCUMENTS, compare, parts
from sae_gap.storage.results import Row

# What is split: its name, the column of its sums by document, and that of what they are divided by.
LOSSES = {"kl": ("kl_sums", "tokens"), "ce": ("ce_sums", "tokens"), "fvu": ("errors", "variance")}
PARTS = ("values", "support", "dictionary")
# What the support part is the sum of, where it is known.
SUPPORT = ("selection", "screening")
# Codes that are the best there are for a dictionary, of which the better ones count.
BEST = ("lasso_refit", "omp", "screened", "weighted")
# An L0 within this share of one that is asked for, or else of a whole number, is taken for it: SAEs
# of like L0s then share what is measured of the best dictionary.
ALIKE = 0.01


def placed(l0: float, asked: Sequence[float]) -> Row:
    """The asked L0 nearest that of an encoder, by their ratio, and the one at which it is split."""
    near = min(asked, key=lambda each: max(each, l0) / min(each, l0)) if l0 else asked[0]
    taken = next((each for each in (near, round(l0)) if abs(l0 - each) <= ALIKE * each), l0)
    return {"near": near, "level": taken}


def best_at(
    rows: Iterable[Mapping[str, Any]], level: float, dictionary: str | None = None
) -> Mapping[str, Any] | None:
    """The row of the best codes at an L0, on one dictionary or on all, whose divergence is least;
    None where there is none.
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
    """The documents that intervals of a row are over; few hardly tell how others differ."""
    count = int(np.count_nonzero(row["tokens"]))
    if count == 1:
        return "of a single document, so no interval"
    return f"over {'only ' if count < FEW_DOCUMENTS else ''}{count} documents"


def split_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What each encoder's loss is made of, by the divergence's choice of the best codes and the
    best dictionary.

    Args:
      rows: of a study with the metric `nats`, one for each dictionary, codes and level.

    Returns:
      A line for each encoder and each of `LOSSES`, where own, own_refit and one of `BEST` were
      measured: the `loss`; the mean L0 of these codes (`l0`, `refit_l0`, `own_best_l0`) and of
        those on the `best` dictionary (`best_l0`); which of `BEST`
      they are, on its own dictionary (`own_best_codes`) and on the best (`best_codes`); `total`,
      above the clean model; the parts that sum to it, `values_part`, `support_part`,
      `dictionary_part` and `rest`; those that the support part is the sum of, `selection_part` and
      `screening_part`, None where "proposed" was not measured; and the ends of the interval of
      each but the rest, `<part>_low` and `<part>_high`.
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
        pairs: dict[str, Any] = {"dictionary": (best, mine)} | parts(own, refit, proposed, mine)
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
