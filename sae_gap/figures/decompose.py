"""Splits the distance of each encoder to the oracle into parts, from rows alone. Nothing here needs
JAX or matplotlib.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sae_gap.figures import tables
from sae_gap.figures.tables import Rows
from sae_gap.storage.results import SIZES, Row, grouped

# Rows are compared only if all of these are equal.
_CELL = ("study", "protocol", "data", "stream", *SIZES)
# Columns that tell codes on one dictionary apart.
_CODES = ("method", "inference", "lam", "start", "iterations", "screens")
# The columns of parts that name the codes with the best score.
CODES = ("support_codes", "frozen_codes", "oracle_codes")
# Codes with the support of the encoder's own, by their column `inference`.
_KEPT = ("support", "least_squares")


def decompositions(rows: Rows, metric: str = "mcc_ood") -> list[Row]:
    """Splits the distance of each encoder to the oracle, on each seed, into parts that sum to it.

      S(oracle) - S(encoder) = [S(support) - S(encoder)] + [S(frozen) - S(support)]
                               + [S(oracle) - S(frozen)]

    Each score but the encoder's own is that of the codes with the best mean over seeds: `support`
    among those that keep the encoder's support, its own included; `frozen` among all on its
    dictionary; `oracle` among all on the true one. So the first two parts are at least zero on
    average, and say how much the best codes at hand gain. The values part is the gain of other
    values on the own support, the support part that of other supports, and the dictionary part that
    of the true dictionary. The first two sum to the amortisation part.

    Args:
      rows: rows of results. Those of one dictionary, and of "oracle", hold different codes if they
        differ in `method`, `inference`, `lam`, `start`, `iterations` or `screens`; `inference`
        "support" and "least_squares" keep the support of the codes "own".
      metric: the score S, a column; more is better.

    Returns:
      A dictionary for each row of own codes whose cell has, on the same seeds, codes with another
      support and the oracle's: `method`, `dictionary`, the sizes and the seed; `encoder`,
      `support`, `frozen` and `oracle`, the four scores; `values_part`, `support_part`,
      `amortisation_part` and `dictionary_part`; `support_codes`, `frozen_codes` and `oracle_codes`,
      the methods with the best codes; `relative_gap`, the own codes' gap in the objective on the
      split of the score, if the row has it. `support`, its codes and the first two parts are None
      if no other row keeps the support.

    Raises:
      ValueError: two rows of one cell have the same codes and seed.
    """
    known = [
        row
        for row in rows
        if tables.is_finite(row.get(metric))
        and row.get("dictionary") is not None
        and row.get("columns") in (None, "learned")
    ]
    places = grouped(known, (*_CELL, "dictionary", "step"))
    parts: list[Row] = []
    for (*cell, _, _), group in places.items():
        true = places.get((*cell, "oracle", None), [])
        own = [row for row in group if row.get("inference") == "own"]
        for encoded in grouped(own, _CODES).values():
            seeds = [row.get("seed") for row in encoded]
            codes, above = _on_seeds(group, seeds), _on_seeds(true, seeds)
            kept = [
                rows for rows in codes if rows[0] in encoded or rows[0].get("inference") in _KEPT
            ]
            if above and len(kept) < len(codes):
                best = [_best(some, metric) for some in (kept, codes, above)]
                for row, support, frozen, oracle in zip(encoded, *best, strict=True):
                    scored = {"support": support, "frozen": frozen, "oracle": oracle}
                    parts.append(_parts(row, scored, metric, split=len(kept) > 1))
    return parts


def _on_seeds(rows: Rows, seeds: Sequence[Any]) -> list[list[Row]]:
    """The rows of each kind of codes that all these seeds have, in their order."""
    found = []
    for group in grouped(rows, _CODES).values():
        by_seed = {row.get("seed"): row for row in group}
        if len(by_seed) < len(group):
            raise ValueError(
                f"rows of {group[0].get('method')} hold a seed twice; choose the rows of one run, "
                "with one value of whatever else they vary."
            )
        if by_seed.keys() >= {*seeds}:
            found.append([by_seed[seed] for seed in seeds])
    return found


def _best(codes: Sequence[Sequence[Row]], metric: str) -> Sequence[Row]:
    return max(codes, key=lambda rows: statistics.fmean(row[metric] for row in rows))


def _parts(own: Row, scored: Mapping[str, Row], metric: str, split: bool) -> Row:
    line = {name: own.get(name) for name in ("method", "dictionary", *SIZES, "stream", "seed")}
    if own.get("step") is not None:
        line["step"] = own["step"]
    line["relative_gap"] = own.get(f"relative_gap_{metric.rpartition('_')[2]}")
    encoder, (support, frozen, oracle) = own[metric], (row[metric] for row in scored.values())
    line |= {"encoder": encoder, "support": support, "frozen": frozen, "oracle": oracle}
    line |= {"values_part": support - encoder, "support_part": frozen - support}
    line |= {"amortisation_part": frozen - encoder, "dictionary_part": oracle - frozen}
    line |= {f"{name}_codes": row.get("method") for name, row in scored.items()}
    unknown = () if split else ("support", "support_codes", "values_part", "support_part")
    return line | dict.fromkeys(unknown)
