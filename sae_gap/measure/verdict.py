"""The answer of a measurement: is it the loading, the encoder or the dictionary?

What an encoder loses of the variance, beside the best codes on its own dictionary at its own mean
L0, is the sum of two parts,

  values part     what least squares on its own supports gains,
  support part    what the best codes gain beyond that,

and, where the encoder's pre-activations tell what it proposes, the support part that of

  selection part  what a pursuit among the latents that it proposes gains,
  screening part  what the best codes gain beyond that.

Two dictionaries are compared by their best codes at an equal mean L0. Best codes are least squares
on the supports of the certified lasso, or a screened pursuit, whichever explain more. Intervals
are those of `sae_gap.measure.comparison`, over documents; the weights of the lasso and the mean
stay as they are.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sae_gap.measure.comparison import FEW_DOCUMENTS, Comparison, compare
from sae_gap.measure.summary import by_subject, gap_lines, matched
from sae_gap.measure.training import ROWS_AN_ATOM

# The control that a dictionary is judged by.
RIVAL = "online_dl"
# Fewer samples than these make an interval wide.
FEW = 500
# An L0 that differs from the wanted one by more than this share is told.
_OFF = 0.02
# Names of the best codes.
_BEST = {"lasso": "the lasso, refitted", "screened": "a screened pursuit"}


class Loss(NamedTuple):
    """What an encoder loses of the variance: `total` is the sum of `values` and `support`.

    Attributes:
      total: the best codes against its own as they are.
      values: least squares on its own supports against its own codes.
      support: the best codes against least squares on its own supports.
      selection: a pursuit among what it proposes against the same; None where that is not known.
      screening: the best codes against that pursuit.
    """

    total: Comparison
    values: Comparison
    support: Comparison
    selection: Comparison | None = None
    screening: Comparison | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a measurement says of an SAE or a dictionary; as a text, lines to be quoted.

    Attributes:
      dictionary: its name.
      samples: scored.
      documents: that they are of or, where none are named, contiguous blocks.
      named: whether documents are.
      suspicions: what looked wrong when it was loaded; None where nobody looked.
      own_l0: mean L0 of the encoder; None where there is none.
      fired: latents that it fires on any of the samples.
      dead: whether it is off, as `Coding.dead` tells; then nothing else is judged.
      l0: mean L0 of the best codes that it is held against.
      encoder: what it loses to those; None where there is none, or no code.
      gap: its line of `gap_lines`.
      common_l0: L0 at which dictionaries are compared, that of the best codes of the first whose
        encoder is not dead.
      reached_l0: mean L0 of the best codes of this dictionary there, and of the learned one.
      explained: by the best codes there.
      learned: those against the same on the dictionary that `online_dl` learned; None where it was
        left out.
      learned_from: rows that it was learned from, and passes over them.
      atoms: of this dictionary and of the learned one.
      outliers: of all activations, in words; None where no row is an outlier.
      with_outliers: FVU of least squares on the lasso's supports and on its own, without and with
        outlier tokens of the held-out documents; empty where these hold none, or are kept.
      best_codes: which the best codes that it is held against are, as `matched` tells.
    """

    dictionary: str
    samples: int
    documents: int
    named: bool
    suspicions: Sequence[str] | None
    own_l0: float | None
    fired: int
    dead: bool
    l0: float | None
    encoder: Loss | None
    gap: Mapping[str, Any]
    common_l0: float
    reached_l0: tuple[float, ...]
    explained: float
    learned: Comparison | None
    learned_from: tuple[int, float]
    atoms: tuple[int, ...]
    outliers: str | None = None
    with_outliers: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    best_codes: str = "lasso"

    @property
    def judged(self) -> bool:
        """Whether its encoder was held against codes of its own L0."""
        if self.own_l0 is None or self.l0 is None:
            return False
        # The mean of few rows moves by whole latents.
        return abs(self.l0 - self.own_l0) <= max(_OFF * self.own_l0, 1 / self.samples)

    @property
    def lines(self) -> dict[str, str]:
        """The sentences, by what they judge."""
        lines = {}
        if self.suspicions is not None:
            doubts = [*self.suspicions, *(["its encoder is dead"] if self.dead else [])]
            more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
            lines["Loading"] = (
                f"suspicious, because {doubts[0].rstrip('.')}{more}" if doubts else "fine"
            )
        lines["Encoder"] = self._encoder()
        if self.encoder is not None and not self.dead:
            lines["Objective"] = self._objective()
        lines["Dictionary"] = self._dictionary()
        if self.outliers is not None:
            fvus = [
                f" of {codes} {without:.3g} without and {with_:.3g} with them"
                for codes, (without, with_) in self.with_outliers.items()
            ]
            lines["Outlier tokens"] = (
                f"{self.outliers}; FVU{','.join(fvus)}" if fvus else self.outliers
            )
        if self.samples < FEW or self.documents < FEW_DOCUMENTS:
            kind = "document" if self.named else "contiguous block"
            rows = f"{self.samples:,} rows of {self.documents} {kind}{'s'[: self.documents > 1]}"
            lines["Samples"] = f"only {rows} were scored, so " + (
                "intervals are wide"
                if self.documents > 1
                else "there are no intervals, and nothing is beyond doubt"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join(f"{name}: {sentence}" for name, sentence in self.lines.items())

    def _encoder(self) -> str:
        if self.own_l0 is None:
            return "there is none, only a decoder"
        if self.encoder is None or self.l0 is None or self.dead:
            fires = f"it fires {self.own_l0:.2g} latents a row"
            if self.own_l0:
                fires += f", and {self.fired:,} of its {self.atoms[0]:,} latents ever fire"
            return f"dead, and not judged: {fires}; look at how it was loaded"
        at = f"at its own L0 ({self.own_l0:.1f})"
        if not self.judged:
            beyond = "is beyond what sparse codes have"
            why = beyond if self.l0 < self.own_l0 else "is not met by any weight"
            at = f"at L0 {self.l0:.2f} (its own, {self.own_l0:.2f}, {why})"
        # More that is explained by more latents says nothing.
        loses = self.encoder.total.sign > 0 and (self.judged or self.l0 < self.own_l0)
        unsure = "no loss beyond doubt" if self.judged else "not judged"
        finding = "better codes exist" if loses else unsure
        shares = (
            f"its own explain {_share(self.encoder.total.other)} of the variance, the best {at} "
            f"{_share(self.encoder.total.one)}"
        )
        total, values, support, selection, screening = self.encoder
        parts = f"{values.points} in values and {support.points} in support"
        if selection and screening:
            parts += f", of it {selection.points} in selection and {screening.points} in screening"
        return f"{finding}: {shares} ({_BEST[self.best_codes]}), {total}: {parts}"

    def _objective(self) -> str:
        gap = self.gap
        if gap["optimum_l0"] < 1:
            return (
                f"the best codes at the weight in use, {gap['lam']:.3g}, are nearly empty (L0 "
                f"{gap['optimum_l0']:.2f}), so no share of a gap is told"
            )
        sentence = (
            f"its codes' lasso objective is {_percent(gap['relative_gap'])} above the certified "
            f"optimum (duality gap {gap['optimum_slack']:.0e} of it)"
        )
        if gap["scale_share"] <= 0.0005:
            return sentence
        return (
            f"{sentence}; {_percent(gap['scale_share'])} go once all codes are multiplied by "
            f"{gap['scale']:.2f}"
        )

    def _dictionary(self) -> str:
        shown, reached = _share(self.explained), self.reached_l0[0]
        missed = (
            "" if _alike(reached, self.common_l0) else f" ({self.common_l0:.1f} was not reached)"
        )
        if self.dead or self.learned is None:
            why = (
                "its encoder is dead"
                if self.dead
                else f"{RIVAL} was left out of the controls; name it there to have it"
            )
            return (
                f"not judged, since {why}. Its best codes at L0 {reached:.1f}{missed} explain "
                f"{shown} of the variance"
            )
        kinds = "neither better nor worse beyond doubt than", "better than", "worse than"
        kind, at = kinds[self.learned.sign], f"the same L0 {reached:.1f}{missed}"
        if not _alike(*self.reached_l0):
            at = f"L0 {reached:.1f}{missed}, the learned one at {self.reached_l0[1]:.1f}"
            # More latents explain more by themselves.
            if self.learned.sign == np.sign(reached - self.reached_l0[1]):
                kind = "not judged against"
        rows, passes = self.learned_from
        effort = f"learned from {rows:,} other rows, {_passes(passes)}"
        # A rival that had too little to learn from is no less of one where it wins.
        if self.learned.sign >= 0 and rows < ROWS_AN_ATOM * self.atoms[1]:
            kind = "not judged against"
            effort += f", too few: {self.atoms[1]:,} atoms need {ROWS_AN_ATOM * self.atoms[1]:,}"
        rival = (
            RIVAL
            if self.atoms[0] == self.atoms[1]
            else f"{RIVAL}, {self.atoms[1]:,} atoms to its {self.atoms[0]:,}"
        )
        values = f"its best codes explain {shown}, the learned one's {_share(self.learned.other)}"
        return f"{kind} one ({rival}) {effort}; at {at}: {values}, {self.learned}"


def verdict(rows: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """What a measurement says, from its rows alone.

    Args:
      rows: of `run`.

    Returns:
      A verdict for each SAE and dictionary, none for a control.
    """
    rows = list(rows)
    documents = next(row for row in rows if row["kind"] == "documents")
    variance = documents["variance"]
    curves, weights, loads, outliers = (
        by_subject(rows, kind) for kind in ("curve", "weight", "load", "outliers")
    )
    gaps = {line["dictionary"]: line for line in gap_lines(rows)}
    common = {name: matched(points, weights[name][0], "common") for name, points in curves.items()}
    rivals = [common[RIVAL]] if RIVAL in common else []
    policy = "kept" if documents["outliers_kept"] else "left out"
    verdicts = []
    for name, points in curves.items():
        if points[0]["role"] == "control":
            continue
        weight, here = weights[name][0], common[name]
        own: Any = next((row for row in points if row["codes"] == "own"), None)
        best: Any = matched(points, weight, "own") if own and own["l0"] > 0 else None
        loss = None
        if best:
            proposed = [row["refit_errors"] for row in points if row["codes"] == "proposed"]
            codes = [best["refit_errors"], own["refit_errors"], own["errors"], *proposed]
            pairs = [(0, 2), (1, 2), (0, 1), *([(3, 1), (0, 3)] if proposed else [])]
            loss = Loss(*(compare(codes[i], codes[j], variance) for i, j in pairs))
        lasso = matched([row for row in points if row["codes"] == "lasso"], weight)
        fvus = {}
        for row in outliers.get(name, ()):
            fvus["the lasso's supports"] = (lasso["refit_fvu"], row["lasso_fvu"])
            if own:
                fvus["its own supports"] = (own["refit_fvu"], row["own_fvu"])
        answer = Verdict(
            dictionary=name,
            samples=sum(documents["samples"]),
            documents=len(variance),
            named=documents["named"],
            suspicions=loads[name][0]["suspicions"] if name in loads else None,
            own_l0=own and own["l0"],
            fired=own["fired"] if own else 0,
            dead=weight["dead"],
            l0=best and best["l0"],
            encoder=loss,
            gap=gaps[name],
            common_l0=weight["common_l0"],
            reached_l0=tuple(row["l0"] for row in (here, *rivals)),
            explained=1 - here["refit_fvu"],
            learned=compare(here["refit_errors"], rivals[0]["refit_errors"], variance)
            if rivals
            else None,
            learned_from=weights[RIVAL][0]["learned_from"] if rivals else (0, 0.0),
            atoms=tuple(row["num_latents"] for row in (here, *rivals)),
            outliers=documents["outliers"] and f"{documents['outliers']}; they are {policy}",
            with_outliers=fvus,
            best_codes=best["codes"] if best else "",
        )
        verdicts.append(answer)
    return verdicts


def compare_dictionaries(rows: Iterable[Mapping[str, Any]], one: str, other: str) -> Comparison:
    """What the best codes on two dictionaries, named as in the rows of `run`, explain at the common
    L0.
    """
    rows = list(rows)
    curves, weights = by_subject(rows, "curve"), by_subject(rows, "weight")
    best, rival = (
        matched(curves[name], weights[name][0], "common")["refit_errors"] for name in (one, other)
    )
    return compare(best, rival, next(row["variance"] for row in rows if row["kind"] == "documents"))


def ranking(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Verdict], str]:
    """Several SAEs and dictionaries by what their best codes explain at one common L0, the best
    first.

    Args:
      rows: of `run`, on two or more whose encoders are not dead.

    Returns:
      The verdicts of those, in order, and a sentence that names the best and its lead over the
      second.
    """
    rows = list(rows)
    live = (each for each in verdict(rows) if not each.dead)
    ordered = sorted(live, key=lambda each: (-each.explained, each.dictionary))
    if len(ordered) < 2:
        raise ValueError("a ranking takes two SAEs whose encoders are not dead; measure more.")
    first, second = ordered[:2]
    lead = compare_dictionaries(rows, first.dictionary, second.dictionary)
    sure = lead.sign and first.reached_l0[0] <= (1 + _OFF) * second.reached_l0[0]
    best = (
        f"the dictionary of {first.dictionary} is the best"
        if sure
        else "no dictionary is the best beyond doubt"
    )
    led = f"those of {second.dictionary} (at L0 {second.reached_l0[0]:.1f}) {_share(lead.other)}"
    leads = (
        f"of {first.dictionary} (at L0 {first.reached_l0[0]:.1f}) explain {_share(lead.one)} of "
        "the variance"
    )
    return ordered, f"At L0 {first.common_l0:.1f} {best}: the best codes {leads}, {led}: {lead}."


def _alike(one: float, other: float) -> bool:
    """Whether two L0 are near enough to be compared at."""
    return abs(one - other) <= _OFF * other


def _passes(count: float) -> str:
    shown = f"{count:.2g}" if count < 10 else f"{count:,.0f}"
    return f"{shown} pass" if shown == "1" else f"{shown} passes"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.1f} %"
