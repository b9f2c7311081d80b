"""Splits the distance of each encoder to the oracle into parts, from rows alone. Nothing here needs
JAX or matplotlib.
"""

from typing import Any

from sae_gap.figures.tables import Rows
from sae_gap.storage.results import SIZES, Row

# Rows are paired only if all of these are equal.
_CELL = ("study", "protocol", "lam", "data", "stream", *SIZES, "seed")


def decompositions(rows: Rows, metric: str = "mcc_ood") -> list[Row]:
    """Splits the distance of each encoder to the oracle, on each seed, into parts that sum to it.

      S(oracle) - S(encoder) = [S(support) - S(encoder)] + [S(frozen) - S(support)]
                               + [S(oracle) - S(frozen)]

    The values part is the gain of the best non-negative values on the encoder's own support, the
    support part that of the lasso on the same dictionary, and the dictionary part that of the lasso
    on the true one. The first two sum to the amortisation part. Parts may be negative.

    Args:
      rows: rows of results; it uses those of one dictionary with `inference` "own", "support" and
        "lasso" from a cold start, and the lasso on the dictionary "oracle". Without a certified
        lasso, it takes FISTA with the most iterations.
      metric: the score S, a column; more is better.

    Returns:
      A dictionary for each row of own codes whose cell has the lasso on both dictionaries, in the
      order of the rows: `method`, `dictionary`, the sizes and the seed; `encoder`, `support`,
      `frozen` and `oracle`, the four scores; `values_part`, `support_part`, `amortisation_part` and
      `dictionary_part`. `support` and its two parts are None if no row has those codes.

    Raises:
      ValueError: two rows of one cell play the same part.
    """
    placed: dict[tuple[Any, ...], dict[tuple[int, Any], Row]] = {}
    for row in rows:
        role, merit = _role(row)
        if role and row.get(metric) is not None:
            sizes = (row.get(name) for name in _CELL)
            others = placed.setdefault((*sizes, row["dictionary"], row.get("step"), role), {})
            if merit in others:
                raise ValueError(
                    f"rows of {others[merit].get('method')} and {row.get('method')} hold a seed "
                    "twice; choose the rows of one "
                    "run, with one value of whatever else they vary."
                )
            others[merit] = row

    def score(*place: Any) -> float | None:
        found = placed.get(place)
        return None if found is None else found[max(found)][metric]

    parts = []
    for (*cell, dictionary, step, role), found in placed.items():
        if role != "own" or dictionary == "oracle":
            continue
        row = found[max(found)]
        encoder, support = row[metric], score(*cell, dictionary, step, "support")
        frozen, oracle = (
            score(*cell, dictionary, step, "lasso"),
            score(*cell, "oracle", None, "lasso"),
        )
        if frozen is None or oracle is None:
            continue
        line = {"method": row.get("method"), "dictionary": dictionary}
        line |= {name: row.get(name) for name in (*SIZES, "stream", "seed")}
        if step is not None:
            line["step"] = step
        parts.append(
            {
                **line,
                "encoder": encoder,
                "support": support,
                "frozen": frozen,
                "oracle": oracle,
                "values_part": None if support is None else support - encoder,
                "support_part": None if support is None else frozen - support,
                "amortisation_part": frozen - encoder,
                "dictionary_part": oracle - frozen,
            }
        )
    return parts


def _role(row: Row) -> tuple[str, tuple[int, Any]]:
    """Returns the codes that a row scores, and how well they stand for them; an empty string for
    any other codes.
    """
    inference = row.get("inference")
    if (
        row.get("dictionary") is None
        or row.get("start") == "warm"
        or row.get("columns") not in (None, "learned")
    ):
        return "", (0, 0)
    if inference == "fista":
        return "lasso", (0, row.get("iterations") or 0)
    return (inference, (1, 0)) if inference in ("own", "support", "lasso") else ("", (0, 0))
