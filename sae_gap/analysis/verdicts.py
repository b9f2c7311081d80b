"""The verdict of a measurement: is the loading, the encoder or the dictionary at fault?

Compared with the best codes on its own dictionary at its own mean L0, an encoder loses the sum of

  values part     what least squares on its own supports gains,
  support part    what the best codes gain beyond that.

Where the encoder's pre-activations show what it proposes, the support part is in turn the sum of

  selection part  what a pursuit among the latents that it proposes gains,
  screening part  what the best codes gain beyond that.

All of the loss of a transcoder is amortisation where the MLP is known that computes its target from
its input: a pursuit of what the MLP computes is a function of the input, and is as good as the
best codes. Otherwise a network predicts the target, and the loss is also the sum of

  amortisation part  what a pursuit of the prediction gains, a bound from below,
  unreached part     what the best codes gain beyond that, which are given the target: a bound from
                     above on what no function of the input gains.

These are not judged where the prediction's codes are worse than the encoder's or the network had
fewer than `ROWS_AN_ATOM` rows for each latent.

Two dictionaries are compared by their best codes at an equal mean L0. The best codes are least
squares on the supports of the certified lasso, or a screened pursuit, whichever explain more. The
intervals are those of `sae_gap.analysis.comparison`, over documents; they take the lasso's weights
and the mean as fixed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sae_gap.analysis import (
    BEST,
    Comparison,
    Rows,
    at,
    by_dictionary,
    is_control,
    parts,
    rows_at,
)
from sae_gap.storage import Row

# The control that judges a dictionary.
RIVAL = "online_dl"
# With fewer rows per atom, a learned dictionary would gain from more rows; benchmarks/NOTES.md has
# how much.
ROWS_AN_ATOM = 20
# Two L0s count as equal if they differ by no more than this share.
ALIKE = 0.02


@dataclass(frozen=True)
class Verdict:
    """The verdict on an SAE or a dictionary; as a text, lines to be quoted.

    Attributes:
      dictionary: its name.
      suspicions: what looked wrong when it was loaded; None if nobody looked.
      own: the row of the encoder's codes; None if there is no encoder.
      best: the row of the best codes at its L0.
      common: the row of the best codes at the L0 at which dictionaries are compared.
      rival: that row for the dictionary that `online_dl` learned; None if it was left out.
      losses: what the encoder loses, "encoder", and its parts, "values", "support", "selection" and
        "screening", "training", "form" and "search", as far as they are known, or "amortisation"
        and "unreached"; and how much less the "dictionary" explains
        than the learned one. Empty if nothing is judged.
      unsure: why the loss is not split by a network that predicts a transcoder's target.
      line: the split of its FVU at its own L0, as `sae_gap.analysis.parts.splits` has them; its
        dictionary part is known where the learned one was measured at that L0.
    """

    dictionary: str
    suspicions: Sequence[str] | None
    own: Row | None
    best: Row
    common: Row
    rival: Row | None
    losses: Mapping[str, Comparison]
    unsure: str = ""
    line: Row | None = None

    @property
    def dead(self) -> bool:
        """True if the encoder is dead; then nothing else is judged."""
        return self.own is not None and self.own["dead"]

    @property
    def explained(self) -> float:
        """The share that the best codes explain at the common L0."""
        return 1 - self.common["fvu"]

    @property
    def lines(self) -> dict[str, str]:
        """The sentences, by the subject that they judge."""
        lines = {}
        if self.suspicions is not None:
            lines["Loading"] = self._loading(*self.suspicions)
        return lines | {"Encoder": self._encoder(), "Dictionary": self._dictionary()}

    def __str__(self) -> str:
        return "\n".join(f"{name}: {sentence}" for name, sentence in self.lines.items())

    def _loading(self, *reasons: str) -> str:
        if self.dead:
            reasons += ("its encoder is dead",)
        if not reasons:
            return "nothing found"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return f"suspicious, because {reasons[0].rstrip('.')}{more}"

    def _encoder(self) -> str:
        if not self.own:
            return "there is none, only a decoder"
        l0 = self.own["l0"]
        if self.dead:
            return (
                f"dead, and not judged: it fires {l0:.2g} latents a row, and "
                f"{self.own['fired']:,} of its {self.own['num_latents']:,} latents ever fire; "
                "look at how it was loaded"
            )
        # The mean over few rows moves by whole latents.
        slack = max(ALIKE * l0, 1 / self.own["num_scored"])
        if abs(self.best["l0"] - l0) <= slack:
            where = f"its own L0 ({l0:.1f})"
            finding = "no loss beyond doubt:"
        else:
            where = f"L0 {self.best['l0']:.2f} (not {l0:.2f})"
            finding = "not judged:"
        lost = self.losses["encoder"]
        if lost.reason:
            finding = f"{lost.reason};"
        elif lost.sign > 0:
            finding = "better codes exist:"
        points = {part: each.points for part, each in self.losses.items()}
        told = f"{points['values']} in values and {points['support']} in support"
        if self.unsure:
            told += f". Amortisation is not judged by the network of its input, since {self.unsure}"
        elif "unreached" in points:
            told = (
                f"at least {points['amortisation']} in amortisation, at most "
                f"{points['unreached']} not reached by the network"
            )
        return (
            f"{finding} its own explain {_share(lost.other)} of the variance, the best at {where} "
            f"{_share(lost.one)} ({BEST[self.best['codes']]}), {lost}: {told}"
        )

    def _dictionary(self) -> str:
        explain = f"at L0 {self.common['l0']:.1f} its best codes explain {_share(self.explained)}"
        if self.dead:
            return f"not judged, since its encoder is dead; {explain} of the variance"
        if not self.rival or "dictionary" not in self.losses:
            mend = f"{RIVAL} was left out of the controls; name it there to have it"
            if "skip" in self.common:
                mend = f"its skip explains without atoms, and {RIVAL} has none"
            return f"not judged, since {mend}. A{explain[1:]} of the variance"
        rows = self.rival["learned_from"]
        width = self.rival["num_latents"]
        lost = self.losses["dictionary"]
        kinds = ("neither better nor worse beyond doubt", "worse", "better")
        # A rival that learned from too few rows and still wins is a rival.
        few = _few(rows, width) if lost.sign <= 0 else ""
        few = few or lost.reason.removeprefix("not judged")
        finding = "not judged against" if few else f"{kinds[lost.sign]} than"
        width_told = f", {width:,} atoms" if width != self.common["num_latents"] else ""
        return (
            f"{finding} one ({RIVAL}{width_told}) learned from {rows:,} other rows{few}; {explain} "
            f"of the variance, the learned one's {_share(lost.one)} at L0 {self.rival['l0']:.1f}, "
            f"{compare_rows(self.common, self.rival)}"
        )


def verdict(
    rows: Rows, suspicions: Mapping[str, Sequence[str]] | None = None
) -> list[Verdict]:
    """The verdicts of a measurement, from its rows alone.

    Args:
      rows: of `sae_gap.measure.run`.
      suspicions: what looked wrong when SAEs were loaded, by their names.

    Returns:
      A verdict for each SAE and dictionary, none for a control.
    """
    subjects = by_dictionary(rows)
    rivals = [row for row in subjects.get(RIVAL, ()) if is_control(row)]
    rival = at(rivals, BEST, "common")
    verdicts = []
    for name, scored in subjects.items():
        if is_control(scored[0]):
            continue
        judged = Verdict(
            dictionary=name,
            suspicions=(suspicions or {}).get(name),
            own=at(scored, ["own"]),
            best=at(scored, BEST),
            common=at(scored, BEST, "common"),
            rival=rival,
            losses={},
        )
        verdicts.append(judged if judged.dead else _judge(judged, scored))
    return verdicts


def _judge(verdict: Verdict, rows: Sequence[Row]) -> Verdict:
    """The verdict with its losses, from the rows of its dictionary."""
    own = verdict.own
    losses: dict[str, Comparison] = {}
    reference = None
    if verdict.rival and "skip" not in verdict.common:
        lost = compare_rows(verdict.rival, verdict.common)
        losses["dictionary"] = lost
        if verdict.common is verdict.best and not lost.reason:
            reference = [verdict.rival]
    if own is None:
        return replace(verdict, losses=losses)
    names = dict.fromkeys(row["codes"] for row in rows)
    group = [[row] for name in names for row in rows_at(rows, [name])]
    codes = parts.Compared.choose([own], group, reference, "fvu")
    # A verdict has best codes.
    assert codes is not None
    line = parts.line_of(codes, "fvu")
    split = parts.split(codes, "fvu")
    losses = {"encoder": split.pop("amortisation")} | split | losses
    predicted = at(rows, ["predicted"])
    unsure = _doubt(predicted, own)
    if predicted and not unsure:
        losses["amortisation"] = compare_rows(predicted, own)
        losses["unreached"] = compare_rows(verdict.best, predicted)
    return replace(verdict, losses=losses, unsure=unsure, line=line)


def _doubt(predicted: Row | None, own: Row) -> str:
    """Why a network that predicts a transcoder's target splits no loss; empty if it does."""
    if not predicted:
        return ""
    rows = predicted.get("network_rows", 0)
    few = _few(rows, predicted["num_latents"])
    if few:
        return f"it learned from {rows:,} rows{few}"
    if predicted["fvu"] > own["fvu"]:
        return "its codes are worse than the encoder's"
    return ""


def compare_rows(one: Row, other: Row) -> Comparison:
    """Compares what the codes of two rows explain of the same samples."""
    return parts.compared([one], [other])


def compare_dictionaries(rows: Rows, one: str, other: str) -> Comparison:
    """Compares what the best codes on two dictionaries, named as in the rows of
    `sae_gap.measure.run`, explain at the common L0.
    """
    subjects = by_dictionary(rows)
    first = at(subjects[one], BEST, "common")
    return compare_rows(first, at(subjects[other], BEST, "common"))


def ranking(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], str]:
    """Ranks SAEs and dictionaries by what their best codes explain at one common L0, the best
    first.

    Args:
      verdicts: at least two with encoders that are not dead.

    Returns:
      The verdicts in order, dead ones last, and a sentence that names the best and its lead over
      the second.
    """
    ordered = in_order(verdicts)
    judged = [each for each in ordered if not each.dead]
    if len(judged) < 2:
        raise ValueError(
            "a ranking takes two SAEs whose encoders are not dead; measure more."
        )
    first, second = judged[:2]
    lead = compare_rows(first.common, second.common)
    if len({"skip" in each.common for each in judged}) > 1:
        best = "none is judged the best, since only some have a skip"
    elif lead.sign > 0:
        best = f"{first.dictionary} is the best"
    else:
        best = f"none is the best beyond doubt{lead.reason.removeprefix('not judged')}"
    return ordered, (
        f"Of the dictionaries {best}. Explained by the best codes of {_explains(first)} of the "
        f"variance, those of {_explains(second)}: {lead}."
    )


def in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts by what the best codes explain at the common L0, dead ones last."""
    return sorted(
        verdicts, key=lambda each: (each.dead, -each.explained, each.dictionary)
    )


def _explains(verdict: Verdict) -> str:
    where = f"{verdict.dictionary} (at L0 {verdict.common['l0']:.1f})"
    return f"{where} {_share(verdict.explained)}"


def standings(verdicts: Sequence[Verdict]) -> list[Row]:
    """A line for each SAE and dictionary, in the order given.

    Returns:
      The `rank` of its best codes at the common L0 among those that are not dead, as all ranks that
      no comparison rules out; at its own L0 `own_fvu` and `best_fvu`, and the parts of the loss
      between them, in points of 100 of the variance; its `l0`; the latents that never fire;
      and the `cost` of its encoder, in million multiply-adds a row.
    """
    judged = [each for each in verdicts if not each.dead]
    lines = []
    for each in verdicts:
        signs = [compare_rows(other.common, each.common).sign for other in judged]
        first = 1 + signs.count(1)
        last = len(judged) - signs.count(-1)
        rank = f"{first}" if first == last else f"{first} to {last}"
        line: Row = {
            "dictionary": each.dictionary,
            "rank": None if each.dead else rank,
            "best_fvu": each.best["fvu"],
        }
        if own := each.own:
            dead = own["num_latents"] - own["fired"]
            line |= {"own_fvu": own["fvu"], "l0": own["l0"], "dead_latents": dead}
            line |= {"cost": own.get("cost")}
        for name in ("values", "support", "dictionary"):
            lost = each.losses.get(name)
            line[f"{name}_part"] = lost and 100 * lost.more
        lines.append(line)
    return lines


def _few(rows: int, width: int) -> str:
    needed = ROWS_AN_ATOM * width
    return f", too few: {width:,} atoms need {needed:,}" if rows < needed else ""


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
