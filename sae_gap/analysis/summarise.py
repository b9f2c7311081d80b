"""Summaries of a measurement's rows, a line for each SAE, dictionary and control."""

from collections.abc import Collection, Sequence
from typing import Any

from sae_gap import catalogue
from sae_gap.analysis import BEST, Rows, best_row
from sae_gap.storage import Row, grouped

# Columns of the lasso in the middle of a curve, by their names in its line.
_MIDDLE = {
    "samples": "num_scored",
    "num_latents": "num_latents",
    "input_dim": "input_dim",
    "seed": "seed",
    "lam": "lam",
    "unconverged": "unconverged",
    "optimum_l0": "l0",
    "optimum_fvu": "fvu",
    "certificate": "own_certificate",
}
# Columns of the metric `gap_parts`.
_GAP = (
    "gap scale relative_gap scale_share values_share support_share support_slack optimum_slack "
    "jaccard overlap_precision overlap_recall fired_only used_only"
)


def is_control(row: Row) -> bool:
    """True if the dictionary of a row is a control."""
    return row.get("family") == "control"


def by_dictionary(rows: Rows) -> dict[str, list[Row]]:
    """The rows that have a score, by the name of their dictionary."""
    scored = (row for row in rows if row.get("fvu") is not None)
    return {name: found for (name,), found in grouped(scored, ("dictionary",)).items()}


def at(rows: Sequence[Row], codes: Collection[str], level: str = "own") -> Any:
    """The row among `rows_at` that explains most; None if there is none."""
    return best_row(rows_at(rows, codes, level), codes)


def rows_at(
    rows: Sequence[Row], codes: Collection[str], level: str = "own"
) -> list[Row]:
    """The rows of a dictionary's codes at a level.

    Args:
      rows: rows of the dictionary.
      codes: names.
      level: "own", the encoder's L0, or "common", the L0 of all; if it was not measured, the other
        stands for it.
    """
    there = [row for row in rows if row["codes"] in codes and "times" not in row]
    return [row for row in there if row.get("level") == level] or there


def gap_lines(rows: Rows) -> list[Row]:
    """The gap of each encoder, at the weight in the middle of its curve.

    Returns:
      A line for each SAE and dictionary: `samples`, λ (`lam`), the `optimum_l0`, `optimum_fvu` and
      largest relative duality gap (`certificate`) of the lasso, and the number of `unused` latents;
      for an encoder also its `l0` and `fvu`, and the columns of the metric `gap_parts`.
    """
    lines = []
    for name, found in by_dictionary(rows).items():
        if is_control(found[0]):
            continue
        middle = _middle(found)
        own = at(found, ["own"])
        line = {"dictionary": name}
        line |= {column: middle[key] for column, key in _MIDDLE.items()}
        if own:
            line |= {"l0": own["l0"], "fvu": own["fvu"]}
            line |= {column: middle[column] for column in _GAP.split()}
        lines.append(line | {"unused": middle["unused"]})
    return lines


def worst_lines(rows: Rows, source: Any) -> list[Row]:
    """The samples with the largest gaps of each encoder that is not dead: `index`, `document`,
    `gap`, and `relative_gap` to their own optimum.

    Args:
      rows: of a measurement.
      source: the plan's source, which knows the row and document numbers in the files.
    """
    lines = []
    held = source.parts[1]
    for name, found in by_dictionary(rows).items():
        middle = _middle(found)
        is_dead = any(row.get("dead") for row in found)
        if is_dead or is_control(found[0]) or "worst" not in middle:
            continue
        for sample, gap, relative in zip(
            middle["worst"],
            middle["worst_gap"],
            middle["worst_relative_gap"],
            strict=True,
        ):
            place = source.places[sample]
            document = None if held.documents is None else int(held.documents[place])
            lines.append(
                {
                    "dictionary": name,
                    "index": int(held.numbers[place]),
                    "document": document,
                    "gap": gap,
                    "relative_gap": relative,
                }
            )
    return lines


def curve_lines(rows: Rows) -> list[Row]:
    """Reconstruction of each subject, and how far each encoder is from the best codes.

    Returns:
      A line for each subject: for an encoder its `l0`, `fvu` and `refit_fvu`; for the lasso's codes
      at that L0 (without an encoder, at the L0 at which dictionaries are compared) their `at_l0`,
      `curve_fvu`, and `curve_refit_fvu` after least squares on their supports; the name of the best
      codes of `BEST` there (`best_codes`) and their `best_fvu`. `fvu_ratio` and `refit_fvu_ratio`
      divide the FVU of the encoder's codes, plain and refitted, by `best_fvu`. The metrics that
      every study has are those of the encoder's codes, or else of the best.
    """
    lines = []
    for name, found in by_dictionary(rows).items():
        own = at(found, ["own"])
        lasso = at(found, ["lasso"])
        best = at(found, BEST)
        line: Row = {
            "dictionary": name,
            "family": best["family"],
            "samples": best["num_scored"],
            "at_l0": lasso["l0"],
            "curve_fvu": lasso["fvu"],
            "curve_refit_fvu": at(found, ["lasso_refit"])["fvu"],
            "best_codes": best["codes"],
            "best_fvu": best["fvu"],
            "certificate": max(
                row["own_certificate"] for row in found if row["codes"] == "lasso"
            ),
        }
        if own:
            line["l0"] = own["l0"]
            for column, codes in {"fvu": "own", "refit_fvu": "own_refit"}.items():
                fvu = at(found, [codes])["fvu"]
                ratio = fvu / best["fvu"] if best["fvu"] > 0 else None
                line |= {column: fvu, f"{column}_ratio": ratio}
        scored = own or best
        further = {
            name: scored[name] for name in catalogue.default_columns() if name in scored
        }
        # Further columns come last, and take no other's place.
        lines.append(line | further | line)
    return lines


def atom_lines(rows: Rows) -> list[Row]:
    """Coherence, near-duplicates and dead atoms of each dictionary, and its agreement with the
    first one of its width.
    """
    lines = []
    for name, found in by_dictionary(rows).items():
        row = next(row for row in found if "coherence" in row)
        shares = row["coherence"] or dict.fromkeys((50, 95))
        lines.append(
            {
                "dictionary": name,
                "coherence_median": shares[50],
                "coherence_95": shares[95],
                "num_latents": row["num_latents"],
                "dead_atoms": row["dead_atoms"],
                "duplicates": row["duplicates"],
                "agreement": row.get("agreement"),
            }
        )
    return lines


def _middle(rows: Sequence[Row]) -> Row:
    """The row of the lasso in the middle of a dictionary's curve."""
    level = next(row["level"] for row in rows if "times" in row)
    return at(rows, ["lasso"], level)
