"""How many nats are lost to an encoder's values, to its support and to the dictionary.

The reconstructions by several codes of the same rows are put back into the model, on each dictionary:

  own          the encoder's codes
  own_refit    least squares on their supports
  lasso        the certified lasso, at the L0 of the encoder
  lasso_refit  least squares on its supports
  omp          least squares on the supports of orthogonal matching pursuit, at the L0 of the encoder

With L(·) the loss of each, an encoder's loss is the sum of

  values part      L(own) - L(own_refit)
  support part     L(own_refit) - L(best)
  dictionary part  L(best) - L(best on the best dictionary at hand)
  rest             L(best on the best dictionary at hand)

where best is lasso_refit or omp, whichever has the smaller divergence. Better supports than both may exist. The best dictionary
is that whose best codes have the least divergence at the asked L0 nearest the encoder's. An encoder whose L0 is above a quarter
of the dimensions is not split. Intervals of 95 % come from a paired bootstrap over documents, as in `sae_gap.measure.verdict`.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from sae_gap.measure.coding import Coding, code, code_chosen, code_lasso, pursued
from sae_gap.measure.downstream import Downstream
from sae_gap.measure.jobs import find_weight
from sae_gap.measure.plan import DENSEST, FEW_DOCUMENTS
from sae_gap.measure.subject import Subject
from sae_gap.measure.verdict import compare
from sae_gap.runtime import progress
from sae_gap.storage import results
from sae_gap.storage.results import Row

# The name of the study in its rows.
STUDY = "downstream"
# Raised whenever a row comes to hold something else.
FORM = 2
CODES = ("own", "own_refit", "lasso", "lasso_refit", "omp")
# What is split: its name, the column of its sums by document, and that of what they are divided by.
LOSSES = {"kl": ("kl_sums", "tokens"), "ce": ("ce_sums", "tokens"), "fvu": ("errors", "variance")}
PARTS = ("values", "support", "dictionary")
# Codes that are the best there are for a dictionary, of which the better ones count.
BEST = ("lasso_refit", "omp")
# The largest L0 of a pursuit: its time grows with the square, and beyond takes longer than all else.
MOST_PURSUED = 64
# An L0 within this share of one that is asked for, or else of a whole number, is taken for it: SAEs of like L0s then share what
# is measured of the best dictionary.
ALIKE = 0.01


class Candidate(NamedTuple):
    """A dictionary that is made when something has to be measured of it.

    Attributes:
      name: what rows call it.
      identity: tells it from others.
      encoder: whether it has one.
      make: gives it.
    """

    name: str
    identity: Any
    encoder: bool
    make: Callable[[], Subject]


@dataclasses.dataclass(frozen=True)
class Patching:
    """What to put back into a model, and where the rows go.

    Args:
      downstream: the model on some texts.
      identity: tells the model, the layer and the texts from others.
      store: a row for each dictionary, codes and L0 is written to it as soon as it is measured.
      l0: mean L0s at which dictionaries are compared.
      codes: of `CODES`.
    """

    downstream: Downstream
    identity: str
    store: results.Store
    l0: Sequence[float]
    codes: Sequence[str] = CODES

    def run(self, candidates: Sequence[Candidate], *, show_progress: bool = True) -> list[Row]:
        """Measures all of them, or reads what is stored.

        Args:
          candidates: dictionaries, with an encoder or without.
          show_progress: whether to show a line of progress.

        Returns:
          Rows of kind "clean" (one, of the model without a change) and "score".
        """
        rows = [self._once({"kind": "clean"}, lambda: [("", self._clean())], [""])[0]]
        with progress.bar(len(candidates) * (1 + len(self.l0)), STUDY, shown=show_progress) as line:
            own: list[tuple[Candidate, Row]] = []
            for candidate in candidates:
                found = self._own(candidate)
                own += [(candidate, found[0])] if found else []
                rows += found
                line.update(1)
            # Codes denser than that are not sparse, and those that fire nothing have no match.
            sparse = [each for each in own if 0 < each[1]["level"] <= DENSEST * each[1]["input_dim"]]
            pursue = self._pursuit([*self.l0, *(row["level"] for _, row in sparse)])
            for candidate in candidates:
                for level in self.l0:
                    rows += self._best(candidate, level, pursue)
                    line.update(1)
            for candidate, row in sparse:
                best = best_at(rows, row["near"])
                names = {candidate.name, *([] if best is None else [best["dictionary"]])}
                names -= {known["dictionary"] for known in _refitted(rows) if known["level"] == row["level"]}
                for each in (each for each in candidates if each.name in names):
                    rows += self._best(each, row["level"], pursue)
        return rows

    def _own(self, candidate: Candidate) -> list[Row]:
        """The encoder's codes, if there is one, and those refitted."""
        wanted = [name for name in ("own", "own_refit") if name in self.codes and candidate.encoder]

        def measure() -> Iterator[tuple[str, Row]]:
            subject = candidate.make()
            x, refitted = self.downstream.activations, "own_refit" in wanted
            coded = code(subject, x, subject.encode, "own", refitted=refitted)  # type: ignore[arg-type]
            for name in wanted:
                yield name, self._scored(subject, coded[name], name, self._l0(coded["own"]))

        found = self._once(self._settings(candidate), measure, wanted)
        return [row | self._placed(row["level"]) | {"dictionary": candidate.name} for row in found]

    def _placed(self, level: float) -> Row:
        """The asked L0 nearest that of an encoder, by their ratio, and the one at which it is split."""
        near = min(self.l0, key=lambda asked: max(asked, level) / min(asked, level)) if level else self.l0[0]
        taken = next((each for each in (near, round(level)) if abs(level - each) <= ALIKE * each), level)
        return {"near": near, "level": taken}

    def _settings(self, candidate: Candidate) -> Row:
        return {"kind": "score", "subject": candidate.identity}

    def _pursuit(self, levels: Sequence[float]) -> Callable[[Subject], Int[np.ndarray, "rows k"]]:
        """Gives the atoms that a pursuit of a dictionary chooses, in order, as many as the largest of these L0s needs."""
        longest = max((_steps(level) for level in levels if level <= MOST_PURSUED), default=1)
        found: dict[str, np.ndarray] = {}

        def pursue(subject: Subject) -> Int[np.ndarray, "rows k"]:
            if subject.identity not in found:
                found[subject.identity] = pursued(subject, self.downstream.activations, min(longest, subject.num_latents))
            return found[subject.identity]

        return pursue

    def _best(self, candidate: Candidate, level: float, pursue: Callable[[Subject], Int[np.ndarray, "rows k"]]) -> list[Row]:
        """The certified codes at a mean L0, those refitted, and the pursuit."""
        wanted = [name for name in ("lasso", "lasso_refit", "omp") if name in self.codes]
        if level > MOST_PURSUED and "omp" in wanted:
            wanted.remove("omp")

        def measure() -> Iterator[tuple[str, Row]]:
            return self._measure_best(candidate.make(), level, wanted, pursue)

        found = self._once(self._settings(candidate) | {"level": level}, measure, wanted)
        # What is stored may have had another name.
        return [row | {"dictionary": candidate.name} for row in found]

    def _measure_best(self, subject: Subject, level: float, wanted: Sequence[str], pursue: Any) -> Iterator[tuple[str, Row]]:
        x = self.downstream.activations
        if "omp" in wanted:
            yield "omp", self._scored(subject, code_chosen(subject, x, pursue(subject)[:, : _steps(level)]), "omp", level)
        if "lasso" in wanted or "lasso_refit" in wanted:
            lam = find_weight(subject, x[self.downstream.replaced], level)
            coded, certificate = code_lasso(subject, x, lam)
            for name, coding in coded.items():
                if name in wanted:
                    yield name, self._scored(subject, coding, name, level) | {"lam": lam, "certificate": certificate}

    def _scored(self, subject: Subject, coded: Coding, codes: str, level: float) -> Row:
        told: Row = {"kind": "score", **subject.columns, "codes": codes, "level": level, "l0": self._l0(coded)}
        return told | self.downstream.score(coded.guess)

    def _l0(self, coded: Coding) -> float:
        return float(np.diff(coded.codes.indptr)[self.downstream.replaced].mean())

    def _clean(self) -> Row:
        down = self.downstream
        row: Row = {"kind": "clean", "tokens": down.tokens, "variance": down.variance, "ce": down.clean.ce.mean()}
        row |= {"ce_sums": down.by_document(down.clean.ce), "rows": len(down.activations), "outliers": int(down.outliers.sum())}
        for name, found in {"zero": down.zero, "mean": down.mean}.items():
            row |= {f"ce_{name}": found.ce.mean(), f"kl_{name}": found.kl.mean()}
        return row

    def _once(self, settings: Row, measure: Callable[[], Iterable[tuple[str, Row]]], names: Sequence[str]) -> list[Row]:
        """The rows of these names, measured and stored one by one unless they are there."""
        jobs = {
            name: results.key(settings | {"study": STUDY, "form": FORM, "of": self.identity, "codes": name}) for name in names
        }
        if not set(jobs.values()) <= self.store.keys():
            made = results.provenance() | {"device": jax.devices()[0].device_kind}
            made["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            for name, row in measure():
                self.store.append([{"study": STUDY, "key": jobs[name], "job": jobs[name]} | made | row])
        stored = {row["job"]: row for row in self.store.rows()}
        return [stored[job] for job in jobs.values()]


def _steps(level: float) -> int:
    """Of a pursuit at a mean L0."""
    return max(1, round(level))


def _refitted(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get("codes") in BEST]


def best_at(rows: Iterable[Mapping[str, Any]], level: float, dictionary: str | None = None) -> Mapping[str, Any] | None:
    """The row of the best codes at an L0, on one dictionary or on all, whose divergence is least; None where there is none."""
    found = (row for row in _refitted(rows) if row["level"] == level and dictionary in (None, row["dictionary"]))
    return min(found, key=lambda row: row["kl"], default=None)


def over_documents(clean: Mapping[str, Any]) -> str:
    """What intervals are over, by the row of the model without a change; few documents hardly tell how others differ."""
    count = int(np.count_nonzero(clean["tokens"]))
    if count == 1:
        return "of a single document, so no interval"
    return f"over {'only ' if count < FEW_DOCUMENTS else ''}{count} documents"


def split_lines(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What each encoder's loss is made of, by the divergence's choice of the best codes and the best dictionary.

    Args:
      rows: of `Patching.run`.

    Returns:
      A line for each encoder and each of `LOSSES`, where own, own_refit and one of `BEST` were measured: the `loss`; the mean
      L0 of these codes (`l0`, `refit_l0`, `own_best_l0`) and of those on the `best` dictionary (`best_l0`); which of `BEST`
      they are, on its own dictionary (`own_best_codes`) and on the best (`best_codes`); `total`, above the clean
      model; the parts that sum to it, `values_part`, `support_part`, `dictionary_part` and `rest`; and the ends of the interval
      of each of the first three, `<part>_low` and `<part>_high`.
    """
    rows = list(rows)
    clean = next(row for row in rows if row["kind"] == "clean")
    scored = {(row["dictionary"], row["level"], row["codes"]): row for row in rows if row["kind"] == "score"}
    lines: list[Row] = []
    for (name, level, codes), own in scored.items():
        at = best_at(rows, own["near"]) if codes == "own" else None
        if at is None:
            continue
        best = at["dictionary"]
        found_steps = [own, scored.get((name, level, "own_refit")), best_at(rows, level, name), best_at(rows, level, best)]
        steps = [step for step in found_steps if step is not None]
        if len(steps) < 4:
            continue
        told: Row = {"dictionary": name, "best": best, "level": level}
        told |= {"own_best_codes": steps[2]["codes"], "best_codes": steps[3]["codes"]}
        told |= dict(zip(("l0", "refit_l0", "own_best_l0", "best_l0"), (row["l0"] for row in steps), strict=True))
        for loss, (column, unit) in LOSSES.items():
            base = sum(clean["ce_sums"]) if loss == "ce" else 0.0
            values = [(sum(row[column]) - base) / sum(clean[unit]) for row in steps]
            line: Row = told | {"loss": loss, "total": values[0], "rest": values[3]}
            for part, worse, better in zip(PARTS, steps[:3], steps[1:], strict=True):
                found = compare(better[column], worse[column], clean[unit])
                line |= {f"{part}_part": found.more, f"{part}_low": found.low, f"{part}_high": found.high}
            lines.append(line)
    return lines
