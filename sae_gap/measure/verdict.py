"""The answer of a measurement: is it the loading, the encoder or the dictionary?

Reconstructions are compared after least squares on the supports of both sides, since an encoder
that shrinks its values alike has still chosen the right latents, and at an equal mean L0. A
comparison is the difference of the shares of variance that two codes explain of the same samples,

  Δ = Σ_i (e_i - f_i) / Σ_i v_i,

with e_i and f_i the squared errors and v_i the squared distance from the mean, summed over the
samples of document i. Its interval of 95 % holds the middle of Δ over documents drawn again with
replacement, the same ones for both sides; the weights λ of the lasso and the mean stay as they are.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sae_gap.measure.summary import by_subject, gap_lines, matched

# The control that a dictionary is judged by.
RIVAL = "online_dl"
# Draws of the bootstrap.
DRAWS = 2_000
# Fewer samples than these make an interval wide.
FEW = 500
# An L0 that differs from the wanted one by more than this share is told.
_OFF = 0.02


class Comparison(NamedTuple):
    """The shares of variance that two codes explain, and their difference with its interval of 95
    %.

    Attributes:
      one: explained by the first.
      other: explained by the second.
      low: of the interval of `one - other`.
      high: of the interval.
    """

    one: float
    other: float
    low: float
    high: float

    @property
    def more(self) -> float:
        """How much more the first explains."""
        return self.one - self.other

    @property
    def sign(self) -> int:
        """1 where the first explains more beyond doubt, -1 where it explains less, 0 where the
        interval holds zero.
        """
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        sign = self.sign or 1
        numbers = [100 * sign * value for value in (self.more, self.low, self.high)]
        # An end that is not zero is not shown as one.
        decimals = (
            1
            if max(map(abs, numbers)) >= 0.1 and (not self.sign or min(map(abs, numbers)) >= 0.05)
            else 2
        )
        # Rounded zero has no sign.
        size, *ends = (f"{round(number, decimals) + 0:.{decimals}f}" for number in numbers)
        low, high = ends[::sign]
        return f"{size} points{('', ' more', ' less')[self.sign]} ({low} to {high})"


def compare(one: ArrayLike, other: ArrayLike, variance: ArrayLike) -> Comparison:
    """Compares two codes by a bootstrap over documents with a fixed seed.

    Args:
      one: squared error of the first in each document, (documents,).
      other: that of the second.
      variance: squared distance from the mean in each document.

    Returns:
      The comparison.
    """
    errors, far = np.array([one, other], np.float64), np.asarray(variance, np.float64)
    count = len(far)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    more = (drawn @ (errors[1] - errors[0])) / np.maximum(drawn @ far, np.finfo(float).tiny)
    explained = 1 - errors.sum(axis=1) / far.sum()
    return Comparison(*explained.tolist(), *np.percentile(more, (2.5, 97.5)).tolist())


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a measurement says of an SAE or a dictionary; as a text, lines to be quoted.

    Attributes:
      dictionary: its name.
      samples: scored.
      documents: that they are of or, where hardly any are named, blocks, in words.
      suspicions: what looked wrong when it was loaded; None where nobody looked.
      own_l0: mean L0 of the encoder; None where there is none.
      l0: mean L0 of the best codes that it is held against.
      encoder: those codes against its own, both after least squares on their supports.
      own_explained: by its own codes as they are.
      gap: its line of `gap_lines`.
      common_l0: L0 at which dictionaries are compared, that of the best codes of the first.
      reached_l0: mean L0 of the best codes of this dictionary there, and of the learned one.
      explained: by the best codes there.
      learned: those against the same on the dictionary that `online_dl` learned; None where it was
        left out.
      atoms: of this dictionary and of the learned one.
      outliers: of all activations, in words; None where no row is an outlier.
      with_outliers: FVU of the best codes and of its own, without and with outlier tokens of the
        held-out documents; empty where these hold none, or are kept.
    """

    dictionary: str
    samples: int
    documents: str
    suspicions: Sequence[str] | None
    own_l0: float | None
    l0: float | None
    encoder: Comparison | None
    own_explained: float | None
    gap: Mapping[str, Any]
    common_l0: float
    reached_l0: tuple[float, ...]
    explained: float
    learned: Comparison | None
    atoms: tuple[int, ...]
    outliers: str | None = None
    with_outliers: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether its encoder was held against codes of its own L0."""
        return self.own_l0 is not None and self.l0 is not None and _alike(self.l0, self.own_l0)

    @property
    def lines(self) -> dict[str, str]:
        """The sentences, by what they judge."""
        lines = {}
        if self.suspicions is not None:
            more = f" (and {len(self.suspicions) - 1} more)" if len(self.suspicions) > 1 else ""
            lines["Loading"] = (
                f"suspicious, because {self.suspicions[0].rstrip('.')}{more}"
                if self.suspicions
                else "fine"
            )
        lines["Encoder"] = self._encoder()
        if self.own_explained is not None and self.encoder is not None:
            lines["Values"] = self._values(self.own_explained)
        lines["Dictionary"] = self._dictionary()
        if self.outliers is not None:
            fvus = [
                f" of {codes} {without:.3g} without and {with_:.3g} with them"
                for codes, (without, with_) in self.with_outliers.items()
            ]
            lines["Outlier tokens"] = (
                f"{self.outliers}; FVU{','.join(fvus)}" if fvus else self.outliers
            )
        if self.samples < FEW:
            lines["Samples"] = (
                f"only {self.samples} rows of {self.documents} were scored, so intervals are wide"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join(f"{name}: {sentence}" for name, sentence in self.lines.items())

    def _encoder(self) -> str:
        if self.own_l0 is None:
            return "there is none, only a decoder"
        if self.encoder is None or self.l0 is None:
            return "it fires no latent on these activations"
        at = f"at its own L0 ({self.own_l0:.1f})"
        if not self.judged:
            at = (
                f"at L0 {self.l0:.1f} (its own, {self.own_l0:.1f}, is beyond what sparse codes "
                "have)"
            )
        mine = f"its own explain {_share(self.encoder.other)}: {self.encoder}"
        shares = f"explain {_share(self.encoder.one)} of the variance where {mine}"
        # More that is explained by more latents says nothing.
        if self.encoder.sign > 0 and (self.judged or self.l0 < self.own_l0):
            return f"better codes {at} {shares}"
        return f"{'no loss' if self.judged else 'not judged'}; the best codes {at} {shares}"

    def _values(self, explained: float) -> str:
        gap = self.gap
        sentence = (
            "its codes as they are, without least squares on the supports, explain "
            f"{_share(explained)}; "
        )
        if gap["optimum_l0"] < 1:
            empty = (
                f"the best codes at the weight in use, {gap['lam']:.3g}, are nearly empty (L0 "
                f"{gap['optimum_l0']:.2f})"
            )
            return f"{sentence}{empty}, so no share of a gap is told"
        certificate = f"(duality gap {gap['optimum_slack']:.0e} of it)"
        sentence += (
            f"its lasso objective is {_percent(gap['relative_gap'])} above the certified optimum "
            f"{certificate}"
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
        if self.learned is None:
            missing = (
                f"not held against a learned one, since {RIVAL} was left out of the controls; name "
                "it there to have it"
            )
            return (
                f"{missing}. Its best codes at L0 {reached:.1f}{missed} explain {shown} of the "
                "variance"
            )
        kind, at = (
            ("no different from", "better than", "worse than")[self.learned.sign],
            "the same L0",
        )
        if not _alike(*self.reached_l0):
            at = f"another L0, {self.reached_l0[1]:.1f} to its"
            # More latents explain more by themselves.
            if self.learned.sign == np.sign(reached - self.reached_l0[1]):
                kind = "not judged against"
        rival = (
            RIVAL
            if self.atoms[0] == self.atoms[1]
            else f"{RIVAL}, {self.atoms[1]:,} atoms to its {self.atoms[0]:,}"
        )
        values = f"{shown} for {_share(self.learned.other)}, {self.learned}"
        return (
            f"{kind} one learned from the same activations ({rival}) at {at} "
            f"{reached:.1f}{missed}: {values}"
        )


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
        fvus = {}
        for row in outliers.get(name, ()):
            fvus["the best codes"] = ((best or here)["refit_fvu"], row["lasso_fvu"])
            if own:
                fvus["its own"] = (own["refit_fvu"], row["own_fvu"])
        answer = Verdict(
            dictionary=name,
            samples=sum(documents["samples"]),
            documents=f"{len(variance)} "
            + ("documents" if documents["named"] else "contiguous blocks"),
            suspicions=loads[name][0]["suspicions"] if name in loads else None,
            own_l0=own and own["l0"],
            l0=best and best["l0"],
            encoder=best and compare(best["refit_errors"], own["refit_errors"], variance),
            own_explained=own and 1 - own["fvu"],
            gap=gaps[name],
            common_l0=weight["common_l0"],
            reached_l0=tuple(row["l0"] for row in (here, *rivals)),
            explained=1 - here["refit_fvu"],
            learned=compare(here["refit_errors"], rivals[0]["refit_errors"], variance)
            if rivals
            else None,
            atoms=tuple(row["num_latents"] for row in (here, *rivals)),
            outliers=documents["outliers"] and f"{documents['outliers']}; they are {policy}",
            with_outliers=fvus,
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
      rows: of `run`, on two or more.

    Returns:
      Their verdicts in order, and a sentence that names the best and its lead over the second.
    """
    rows = list(rows)
    ordered = sorted(verdict(rows), key=lambda each: (-each.explained, each.dictionary))
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


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.1f} %"
