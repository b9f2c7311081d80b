"""What the rows of a measurement say, a line for each SAE, dictionary and control."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sae_gap.measure.chunk import gap_parts, unpack
from sae_gap.measure.curve import l0_ratio
from sae_gap.storage.results import Row


def gap_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Sums up the chunks of each subject.

    Args:
      rows: rows of a measurement; those of kind "gap" are read.

    Returns:
      A line for each subject: `samples`, λ, the optimum's `optimum_l0`, `optimum_fvu` and largest
      relative duality gap (`certificate`); of an encoder also its `l0` and `fvu`, the gap and its
      parts as shares of the optimum's objective (`relative_gap`, `scale_share`, `values_share`,
      `support_share`), what certifies them in the same unit (`support_slack`, `optimum_slack`), the
      best `scale`, the overlap of supports (`jaccard`, `precision`, `recall`, means over samples),
      and how many latents are `fired_only` by the encoder, `used_only` by the optimum, and `unused`
      by either.
    """
    return [_gap_line(name, chunks) for name, chunks in by_subject(rows, "gap").items()]


def _gap_line(name: str, chunks: Sequence[Mapping[str, Any]]) -> Row:
    def total(column: str) -> Any:
        return sum(chunk[column] for chunk in chunks)

    count, variance, width = total("samples"), total("variance"), chunks[0]["num_latents"]
    used = np.any([unpack(chunk["used"], width) for chunk in chunks], axis=0)
    line: Row = {
        "dictionary": name,
        "samples": count,
        "num_latents": width,
        **{column: chunks[0].get(column) for column in ("input_dim", "seed", "lam")},
        "optimum_l0": total("optimum_active") / count,
        "optimum_fvu": total("optimum_error") / variance,
        "certificate": max(chunk["certificate"] for chunk in chunks),
        "unconverged": total("unconverged"),
    }
    if "fired" not in chunks[0]:
        return line | {"unused": int((~used).sum())}
    fired = np.any([unpack(chunk["fired"], width) for chunk in chunks], axis=0)
    return line | {
        "l0": total("active") / count,
        "fvu": total("error") / variance,
        **gap_parts(
            {column: total(column) for column in chunks[0] if column.startswith("sum_")}, count
        ),
        **{column: total(column) / count for column in ("jaccard", "precision", "recall")},
        "fired_only": int((fired & ~used).sum()),
        "used_only": int((used & ~fired).sum()),
        "unused": int((~used & ~fired).sum()),
    }


def worst_lines(rows: Iterable[Mapping[str, Any]], most: int = 10) -> list[Row]:
    """The samples of the largest gaps of each encoder: `index`, `document`, `gap`, and
    `relative_gap` to their own optimum.
    """
    lines = []
    for name, chunks in by_subject(rows, "gap").items():
        samples: list[Row] = []
        for chunk in chunks:
            documents = chunk.get("worst_document")
            for place, index in enumerate(chunk.get("worst_index", ())):
                gap, relative = chunk["worst_gap"][place], chunk["worst_relative_gap"][place]
                line = {
                    "dictionary": name,
                    "index": index,
                    "document": documents[place] if documents else None,
                }
                samples.append(line | {"gap": gap, "relative_gap": relative})
        lines += sorted(samples, key=lambda line: (-line["gap"], line["index"]))[:most]
    return lines


def curve_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Reconstruction of each subject, and how far each encoder is from the best codes.

    Args:
      rows: rows of a measurement; those of kinds "curve" and "weight" are read.

    Returns:
      A line for each subject: of an encoder its `l0`, `fvu` and `refit_fvu`; and of the lasso's
      codes at that L0 (for a subject without an encoder, at the one at which dictionaries are
      compared) their `at_l0`, `curve_fvu`, and `curve_refit_fvu` after least squares on their
      supports; which codes are the best there (`best_codes`, as `matched` tells) and their
      `best_fvu`. `fvu_ratio` and `refit_fvu_ratio` hold the encoder's codes, as they are and
      refitted, against `best_fvu`, and `l0_ratio` its refitted codes against the L0 at which the
      curve leaves as much unexplained: 1 is on the curve, and None out of its range.
    """
    curves, weights = by_subject(rows := list(rows), "curve"), by_subject(rows, "weight")
    lines = []
    for name, points in curves.items():
        lasso = [row for row in points if row["codes"] == "lasso"]
        at, best = (matched(each, weights[name][0]) for each in (lasso, points))
        mine = next((row for row in points if row["codes"] == "own"), None)
        line: Row = {
            "dictionary": name,
            "role": best["role"],
            "samples": best["samples"],
            "at_l0": at["l0"],
            "curve_fvu": at["fvu"],
            "curve_refit_fvu": at["refit_fvu"],
            "best_codes": best["codes"],
            "best_fvu": best["refit_fvu"],
            "certificate": max(row["certificate"] for row in lasso),
        }
        if mine is not None:
            line |= {column: mine[column] for column in ("l0", "fvu", "refit_l0", "refit_fvu")}
            for kind in ("fvu", "refit_fvu"):
                line[f"{kind}_ratio"] = (
                    mine[kind] / best["refit_fvu"] if best["refit_fvu"] > 0 else None
                )
            line["l0_ratio"] = l0_ratio(
                [(row["l0"], row["refit_fvu"]) for row in lasso], mine["l0"], mine["refit_fvu"]
            )
        lines.append(line)
    return lines


def matched(
    points: Iterable[Mapping[str, Any]], weight: Mapping[str, Any], level: str = "own"
) -> Mapping[str, Any]:
    """The point of the best codes at a level: "own" is the encoder's L0, where there is one, and
    "common" that of all.

    They are "lasso", least squares on the lasso's supports, or "screened", those of
    `coding.screened`, whichever explain more.
    """
    lam = weight.get(f"{level}_lam") or weight["common_lam"]
    there = (row for row in points if row["lam"] == lam and row["codes"] in ("lasso", "screened"))
    return min(there, key=lambda row: row["refit_fvu"])


def atom_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Coherence, near-duplicates and dead atoms of each dictionary, and its agreement with the
    first one of its width.
    """
    rows, lines = list(rows), list[Row]()
    agreed = {
        (row["dictionary"], row["other"]): row["cosine"]
        for row in rows
        if row["kind"] == "agreement"
    }
    atoms = by_subject(rows, "atoms")
    for name, (row, *_) in atoms.items():
        median, high = (row["coherence"][place] if row["coherence"] else None for place in (50, 95))
        line = {
            column: row[column] for column in ("dictionary", "num_latents", "dead", "duplicates")
        }
        line |= {
            "coherence_median": median,
            "coherence_95": high,
            "agreement": agreed.get((next(iter(atoms)), name)),
        }
        lines.append(line)
    return lines


def by_subject(rows: Iterable[Mapping[str, Any]], kind: str) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of a kind, by the name of their dictionary."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind:
            found.setdefault(row["dictionary"], []).append(row)
    return found
