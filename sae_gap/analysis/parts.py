"""Splits the loss of an SAE's codes into parts, from rows alone.

With L(·) the mean loss of codes over the same documents or seeds,

  values part      L(own) - L(kept)
  support part     L(kept) - L(best), where known the sum of
    selection part   L(kept) - L(proposed): the latent was proposed, and not taken
    screening part   L(proposed) - L(best): it was not proposed
  dictionary part  L(best) - L(reference)
  rest             L(reference)

sum to L(own); values and support part together are the amortisation part, which where encoders were
trained on the same dictionary is also the sum of

  training part    L(own) - L(retrained): an affine map with TopK, trained on it as it is
  form part        L(retrained) - L(learned): the best encoder that was trained on it
  search part      L(learned) - L(best): what the best codes gain beyond it

which are not judged where the encoder's own form is better than that map beyond doubt. Trained
encoders have k latents in each row and their own values, the best codes k on average and least
squares, so the search part is at most what needs a choice for each sample. `kept` are
the best among the encoder's own codes and others on their support, `best` the best ones on its
dictionary, and `reference` the best ones on the true dictionary where it is known, else on the best
at hand.

The best codes are those of the least mean loss over the very same rows, for each loss by itself. On
drawn data all codes take part, the own ones too; on activations those of `BEST`, at one mean L0. A
score is a loss of opposite sign, 1 - S. Better codes may exist. A weighted pursuit also changes the
norm, so that the screening part may be negative. A dead encoder's loss is not split. All 95 %
intervals, over documents or seeds, are those of `sae_gap.analysis.comparison`.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sae_gap.analysis import Comparison, Lines, Rows, Table, is_finite, over
from sae_gap.analysis.comparison import compare
from sae_gap.analysis.tables import table
from sae_gap.storage import SIZES, Row, grouped

# The rows of some codes: one for each seed, or one with sums by document.
Codes: TypeAlias = Sequence[Row]


class Loss(NamedTuple):
    """A loss with sums by document.

    Attributes:
      sums: column of the sums.
      shares: column of what they are divided by.
      label: its name on axes and in tables.
      lost: what is lost, in a sentence.
    """

    sums: str
    shares: str
    label: str
    lost: str


# Any other name is a score, 1 at best, of one seed.
LOSSES = {
    "kl": Loss("kl_sums", "tokens", "KL", "nats of KL"),
    "ce": Loss("ce_sums", "tokens", "ΔCE", "nats of cross entropy"),
    "fvu": Loss("errors", "variance", "FVU", "of the variance"),
}
PARTS = ("values", "support", "dictionary")
# The parts of the support part, and others of the amortisation part, where they are known.
SUPPORT = ("selection", "screening")
AMORTISED = ("training", "form", "search")
_SPLIT = ("amortisation", *PARTS, *SUPPORT, *AMORTISED)
# Codes of encoders that were trained on the dictionary as it is, with the sizes in their names.
TRAINED = re.compile(r"retrained|hidden_(?P<hidden>\d+)|learned_steps_(?P<steps>\d+)")
# Candidates for the best codes at a mean L0, as sentences name them.
BEST = {
    "lasso_refit": "the lasso, refitted",
    "omp": "orthogonal matching pursuit",
    "screened": "a screened pursuit",
    "weighted": "a pursuit by nats",
}
# Codes that keep the support of the own ones.
KEPT = ("own_refit", "support", "least_squares")
# L0s that differ by no more than this share are measured once. One as close to a requested or whole
# one snaps to it, so that SAEs of similar L0 share the measurements of the best dictionary.
ALIKE = 0.01
# Scores are compared only within one of these, documents within a level.
_CELL = ("study", "protocol", "data", "stream", *SIZES)
# Columns that tell codes on one dictionary apart.
_CODES = ("method", "codes", "inference", "lam", "start", "iterations", "screens")
# Columns of a split that come from the row of the own codes.
_ABOUT = ("method", "dictionary", *SIZES, "stream", "world", "step", "level", "l0")
_COLUMNS = (
    "loss l0 total amortisation_part values_part support_part selection_part screening_part "
    "dictionary_part rest best own_best_codes training_part form_part search_part"
)


def placed(l0: float, asked: Sequence[float]) -> Row:
    """The requested L0 closest by ratio to the encoder's, and the L0 used to split its loss."""

    def ratio(level: float) -> float:
        return max(level, l0) / min(level, l0)

    near = min(asked, key=ratio) if l0 else asked[0]
    for level in (near, round(l0)):
        if abs(l0 - level) <= ALIKE * level:
            return {"near": near, "level": level}
    return {"near": near, "level": l0}


def best(candidates: Iterable[Codes], loss: str) -> Codes | None:
    """The codes of the least mean loss over their rows; None if there are none."""
    sign = 1 if loss in LOSSES else -1

    def mean(codes: Codes) -> float:
        return sign * fmean(row[loss] for row in codes)

    return min(candidates, key=mean, default=None)


def best_at(rows: Rows, level: float, dictionary: str | None = None) -> Row | None:
    """The row of the codes of least KL at an L0, on one dictionary or on all; None if there is
    none.
    """
    there = [
        row
        for row in rows
        if row.get("level") == level and dictionary in (None, row["dictionary"])
    ]
    return best_row(there, BEST, "kl")


def best_row(rows: Rows, codes: Collection[str], loss: str = "fvu") -> Row | None:
    """The row of least loss among those of some codes; None if there is none."""
    top = best([[row] for row in rows if row["codes"] in codes], loss)
    return top[0] if top else None


def compared(better: Codes, worse: Codes, loss: str = "fvu") -> Comparison:
    """How much less the first codes lose than the second, over documents or seeds."""
    (one, unit) = _losses(better, loss)
    (other, _) = _losses(worse, loss)
    if loss not in LOSSES:
        return compare(one, other, unit)
    return compare(one, other, unit, (better[0]["l0"], worse[0]["l0"]))


class Compared(NamedTuple):
    """The codes between which the parts of a loss lie; None if they were not measured."""

    own: Codes
    kept: Codes | None
    best: Codes
    proposed: Codes | None = None
    reference: Codes | None = None
    retrained: Codes | None = None
    learned: Codes | None = None

    @classmethod
    def choose(
        cls,
        own: Codes,
        group: Iterable[Codes],
        reference: Codes | None,
        loss: str,
    ) -> "Compared | None":
        """Chooses the best codes for each part of a loss.

        Args:
          own: the encoder's codes.
          group: all codes on its dictionary, of the same documents or seeds.
          reference: the best codes on the best dictionary.
          loss: the loss.

        Returns:
          The codes; None if its dictionary has no others than the own ones and those on their
          support.
        """
        named = [(_name(codes[0]), codes) for codes in group]
        keeping = [codes for name, codes in named if name in KEPT]
        trained = [codes for name, codes in named if TRAINED.fullmatch(str(name))]
        if loss in LOSSES:
            candidates = [codes for name, codes in named if name in BEST]
        else:
            candidates = [codes for _, codes in named]
            further = [codes for codes in candidates if codes[0] is not own[0]]
            if len(further) == len(keeping):
                return None
        top = best(candidates, loss)
        if not top:
            return None
        by_name = dict(reversed(named))
        return cls(
            own=own,
            kept=best([own, *keeping], loss) if keeping else None,
            best=top,
            proposed=by_name.get("proposed"),
            reference=reference,
            retrained=by_name.get("retrained"),
            learned=best(trained, loss),
        )


def split(codes: Compared, loss: str) -> dict[str, Comparison]:
    """The amortisation part of a loss and the other parts, as far as these are known."""
    own, kept, best, proposed, reference, retrained, learned = codes
    pairs = {"amortisation": (best, own)}
    if retrained and learned and compared(retrained, own, loss).sign >= 0:
        pairs["training"] = retrained, own
        # Without a better form neither is known.
        if _name(learned[0]) != _name(retrained[0]):
            pairs |= {"form": (learned, retrained), "search": (best, learned)}
    if kept:
        pairs |= {"values": (kept, own), "support": (best, kept)}
        if proposed:
            pairs |= {"selection": (proposed, kept), "screening": (best, proposed)}
    if reference:
        pairs["dictionary"] = reference, best
    return {part: compared(*pair, loss) for part, pair in pairs.items()}


def line_of(codes: Compared, loss: str) -> Row:
    """The line of one split, as `splits` has them."""
    own, kept, best, _, reference, *_ = codes
    parts = split(codes, loss)
    lost, unit = _losses(own, loss)
    whole = parts["amortisation"].other
    first = own[0]
    line: Row = {"loss": loss} | {name: first[name] for name in _ABOUT if name in first}
    line |= {"units": np.count_nonzero(unit), "total": 1 - whole}
    for name, column in {"l0": "l0", "atoms_found": "close"}.items():
        if column in first:
            line[name] = fmean(row[column] for row in own)
    for part in _SPLIT:
        amount = parts.get(part)
        line[f"{part}_part"] = amount and amount.more
        line[f"{part}_low"] = amount and amount.low
        line[f"{part}_high"] = amount and amount.high
    last = reference or best
    line["rest"] = 1 - compared(last, own, loss).one
    if loss in LOSSES:
        share = compare(_losses(best, loss)[0], lost, lost)
        line |= {"share_low": share.low, "share_high": share.high}
    line["best"] = last[0]["dictionary"]
    ends = {"support_codes": kept, "own_best_codes": best, "best_codes": last}
    return line | {name: end and _name(end[0]) for name, end in ends.items()}


def splits(rows: Rows, losses: Iterable[str]) -> list[Row]:
    """Splits the loss of each encoder.

    Args:
      rows: of results, a row for each dictionary, codes and seed or level. Codes are named by their
        column `codes` or, of drawn data, `inference`; the true dictionary is "oracle".
      losses: names: "kl", "ce" and "fvu" have sums by document; others are columns of scores.

    Returns:
      A line for each loss and each own codes that are not dead, if other codes were measured on
      their dictionary: `loss`; the `level` and `l0` of the own codes, or their sizes, and of drawn
      data `atoms_found`, the mean share of atoms with a cosine above 0.9; `units`, how
      many documents or seeds there are; `total`, of cross entropy that above the clean model's; the
      parts that sum to it, `values_part`, `support_part`, `dictionary_part` and `rest`, and
      `amortisation_part`, those of `SUPPORT` and `AMORTISED`, None where they are not known; the
      ends of the interval of each part, `<part>_low` and `<part>_high`, and with sums by document
      of the encoder's share of the total, `share_low` and `share_high`; the `best` dictionary; and
      the names of the best codes on the own support, dictionary and the best one, `support_codes`,
      `own_best_codes` and `best_codes`.

    Raises:
      ValueError: codes of one place have two rows of one seed.
    """
    rows = list(rows)
    lines = []
    for loss in losses:
        known = [
            row
            for row in rows
            if is_finite(row.get(loss))
            and row.get("dictionary") is not None
            and row.get("columns") in (None, "learned")
        ]
        by_document = loss in LOSSES
        for here in grouped(known, ("level",) if by_document else _CELL).values():
            of = grouped(here, ("dictionary", "step"))
            for group in of.values():
                own = [
                    row for row in group if _name(row) == "own" and not row.get("dead")
                ]
                above = here if by_document else of.get(("oracle", None), [])
                for encoded in grouped(own, _CODES).values():
                    lines += _line(encoded, group, above, loss)
    return lines


def _line(own: Codes, group: Codes, above: Codes, loss: str) -> list[Row]:
    """The line of some own codes among those of their dictionary; none if others are missing."""
    seeds = [row.get("seed") for row in own]
    others = _on_seeds(above, seeds)
    if loss in LOSSES:
        others = [codes for codes in others if _name(codes[0]) in BEST]
    reference = best(others, loss)
    chosen = Compared.choose(own, _on_seeds(group, seeds), reference, loss)
    if not chosen or not reference:
        return []
    return [line_of(chosen, loss)]


def shares(line: Row, *names: str) -> str:
    """Says which shares of some parts of a loss are the encoder's, the dictionary's and the rest:
    "x % encoder, y % dictionary, z % rest".
    """
    known = {
        "encoder": line["amortisation_part"],
        "dictionary": line["dictionary_part"],
        "rest": line["rest"],
    }
    amounts = {name: known[name] for name in names or known if known[name] is not None}
    whole = sum(amounts.values())
    return ", ".join(
        f"{100 * amount / whole:.0f} % {name}" for name, amount in amounts.items()
    )


def sentence(line: Row) -> str:
    """Says of one SAE how much it loses, and by what."""
    inner = [
        f"{100 * line[f'{part}_part'] / line['total']:.0f} % {part}"
        for part in ("values", "support", *SUPPORT, *AMORTISED)
        if line[f"{part}_part"] is not None
    ]
    where = over(line["units"], "document")
    if np.isfinite(line["share_low"]):
        where = (
            f"{100 * line['share_low']:.0f} to {100 * line['share_high']:.0f} {where}"
        )
    encoder, *others = shares(line).split(", ")
    rest = ", ".join([f"{encoder} ({where}; {', '.join(inner)})", *others])
    lost = f"{line['total']:.3f} {LOSSES[line['loss']].lost} at L0 {line['l0']:.0f}"
    if line["best"] != line["dictionary"]:
        lost += f" beside {line['best']}"
    return f"{line['dictionary']} loses {lost}: {rest}"


def table_of(lines: Lines, title: str, names: str = "dictionary") -> Table:
    """The table of splits, each part with half its interval."""
    shown = []
    for line in map(dict, lines):
        if line["loss"] in LOSSES:
            line["loss"] = LOSSES[line["loss"]].label
        for part in _SPLIT:
            low = line[f"{part}_low"]
            if is_finite(low):
                line[f"{part}_part_half"] = (line[f"{part}_high"] - low) / 2
        if line["best"] == line["dictionary"]:
            # The best dictionary's own part is zero by definition.
            line["dictionary_part"] = None
        shown.append(line)
    return table(title, f"{names} {_COLUMNS}", shown)


def _name(row: Row) -> Any:
    return row.get("codes") or row.get("inference")


def _losses(codes: Codes, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """A loss of codes by seed, or of means over seeds by document, and what it is a share of."""
    if loss not in LOSSES:
        return 1 - np.array([row[loss] for row in codes], float), np.ones(len(codes))
    sums, unit, *_ = LOSSES[loss]

    def mean(column: str) -> np.ndarray:
        return np.mean([row[column] for row in codes], axis=0, dtype=float)

    return mean(sums) - (mean("ce_clean") if loss == "ce" else 0.0), mean(unit)


def _on_seeds(rows: Codes, seeds: Sequence[Any]) -> list[Codes]:
    """The rows of all codes that have these seeds, in their order."""
    found: list[Codes] = []
    for group in grouped(rows, ("dictionary", *_CODES)).values():
        by_seed = {row.get("seed"): row for row in group}
        if len(by_seed) < len(group):
            raise ValueError(
                f"rows of {group[0].get('method')} hold a seed twice; choose the rows of one run, "
                "with one value of whatever else they vary."
            )
        if by_seed.keys() >= {*seeds}:
            found.append([by_seed[seed] for seed in seeds])
    return found
