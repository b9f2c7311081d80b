"""A measurement as jobs whose rows go to a store, so that a run that was stopped goes on where it was.

Many processes share the folder of the store, and the chunks of the gap between them. All else the first process measures while
the others wait, and all read the rows from the store.
"""

import dataclasses
import datetime
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sae_gap.measure.atom_statistics import agreement, describe_atoms
from sae_gap.measure.chunk import measure_chunk
from sae_gap.measure.controls import control
from sae_gap.measure.curve import SPREAD, Sums, chunks, measure_curve
from sae_gap.measure.plan import DENSEST, Plan, evenly_spaced
from sae_gap.measure.subject import Subject, of_model
from sae_gap.runtime import devices, distributed, progress
from sae_gap.solvers import match_l0, sparse_code
from sae_gap.storage import results
from sae_gap.storage.results import Row

# The name of the study in its rows.
STUDY = "measure_sae"
# Raised whenever a row comes to hold something else, so that earlier rows are measured again.
FORM = 3
# Samples on which a weight is found, before it is corrected on all.
MATCHED = 500
# Activations that controls learn from, in floats.
POOL = 2**27
# Mean L0, as a share of the dimensions, at which a dictionary without an encoder is measured.
USUAL = 1 / 12


def run(plan: Plan, store: results.Store, *, show_progress: bool = True) -> list[Row]:
    """Measures all that a plan holds, or reads from the store what has been measured before.

    Processes that `distributed.start` has joined all call this alike and share the store's folder.

    Args:
      plan: what to measure.
      store: where rows go.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      The rows of the plan, whether measured now or before. Their `kind` says what they hold: "documents" (of the scored
      samples), "load", "weight", "curve", "outliers", "gap" (one a chunk, to be summed by `gap_lines`), "atoms" or "agreement".

    Raises:
      ValueError: activations cannot be read, or something does not fit; the message says how to mend it.
    """
    plan.check()
    jobs = _Jobs(plan, store)
    first, *others = plan.subjects
    parts = sum(len(_own(_parts(plan, subject))) for subject in plan.subjects)
    rows = jobs.documents()
    common: float | None = None
    with progress.bar(len(plan.subjects) + parts + len(plan.controls), STUDY, shown=show_progress) as line:
        for subject in plan.subjects:
            curve = jobs.curve(subject, common)
            common = common or _weight(curve)["common_l0"]
            line.update(1)
            rows += jobs.load(subject) + curve + jobs.gap(subject, curve, line.update)
        for name in plan.controls:
            rows += jobs.control(name, common)  # type: ignore[arg-type]
            line.update(1)
        for other in (other for other in others if other.dictionary.shape == first.dictionary.shape):
            settings = {"kind": "agreement", "subject": _fingerprint(first), "other": _fingerprint(other)}
            rows += jobs.once(settings, functools.partial(_agreement, first, other))
    return rows


@dataclasses.dataclass(frozen=True)
class _Jobs:
    plan: Plan
    store: results.Store

    def once(self, settings: Row, measure: Callable[[], Sequence[Row]]) -> list[Row]:
        """The rows of a job, which the first process measures unless they are stored."""
        if distributed.is_first() and not self.stored(settings):
            self.keep(settings, measure())
        distributed.wait(self.name(settings))
        return self.stored(settings)

    def name(self, settings: Row) -> str:
        return results.key(
            {
                "study": STUDY,
                "form": FORM,
                "activations": self.plan.fingerprint,
                "seed": self.plan.seed,
                "samples": self.plan.samples,
                "keep_outliers": self.plan.keep_outliers,
            }
            | settings
        )

    def stored(self, settings: Row) -> list[Row]:
        name = self.name(settings)
        return [row for row in self.store.rows() if row["job"] == name]

    def keep(self, settings: Row, measured: Sequence[Row]) -> None:
        job, date = self.name(settings), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        common = {"study": STUDY, "job": job, "activations": self.plan.fingerprint, "seed": self.plan.seed, "date": date}
        common |= results.provenance() | {"device": jax.devices()[0].device_kind}
        common |= {"jax_x64": bool(jax.config.values["jax_enable_x64"])}
        self.store.append({"key": results.key({"job": job, "part": part})} | common | row for part, row in enumerate(measured))

    def documents(self) -> list[Row]:
        """How many of the scored samples each document has, their squared distance from the mean of all, and outlier tokens."""
        plan = self.plan

        def measure() -> list[Row]:
            far = np.sum(np.square(plan.scored - plan.mean), axis=1)
            members, named = plan.members
            counts, variance = np.bincount(members), np.bincount(members, far)
            found = {"named": named, "samples": counts.tolist(), "variance": variance.tolist()}
            looked_at = plan.activations if plan.held_out is None else plan.held_out
            outliers = str(looked_at.outliers) if len(looked_at.outliers.rows) else None
            return [{"kind": "documents", **found, "outliers": outliers, "outliers_kept": plan.keep_outliers}]

        return self.once({"kind": "documents"}, measure)

    def load(self, subject: Subject) -> list[Row]:
        """What was said of an SAE as it was loaded."""
        if subject.name not in self.plan.loaded:
            return []
        row: Row = {"kind": "load", **self.plan.loaded[subject.name]._asdict(), **subject.columns}
        return self.once({"subject": _fingerprint(subject), "report": results.key(row)}, lambda: [row])

    def curve(self, subject: Subject, common: float | None) -> list[Row]:
        """The weights of a subject, its curve around that of the gap, and its atoms.

        Args:
          subject: what to measure.
          common: mean L0 at which dictionaries are compared; None for the first, which sets it.
        """
        plan, x = self.plan, self.plan.scored

        def measure() -> list[Row]:
            own = None if subject.encode is None else _own_l0(subject, x)
            densest = DENSEST * subject.input_dim
            find = functools.cache(lambda l0: find_weight(subject, x, min(l0, densest)))
            shared = common or plan.l0 or own or (USUAL * subject.input_dim if plan.lam is None else None)
            own_lam = find(own) if own else None
            common_lam: float = find(shared) if shared else plan.lam  # type: ignore[assignment]
            lam: float = plan.lam or (common_lam if plan.l0 else own_lam or common_lam)
            points = _points(subject, x, {lam * share for share in SPREAD} | {own_lam or lam, common_lam}, plan.members[0])
            reached = {row["lam"]: row["l0"] for row in points if row["codes"] == "lasso"}
            weight = {"lam": lam, "l0": reached[lam], "own_l0": own, "own_lam": own_lam}
            weight |= {"common_l0": common or reached[common_lam], "common_lam": common_lam}
            outliers = _with_outliers(subject, plan, own_lam or common_lam, points) if len(plan.left_out) else []
            return [{"kind": "weight", **weight, **subject.columns}, *points, *_atoms(subject), *outliers]

        settings = {"lam": plan.lam, "l0": plan.l0, "common": common}
        return self.once({"kind": "curve", "subject": _fingerprint(subject)} | settings, measure)

    def gap(self, subject: Subject, curve: Sequence[Row], watch: Callable[[int], Any]) -> list[Row]:
        """The gap of a subject on every chunk; each process measures chunks of its own."""
        plan, lam = self.plan, _weight(curve)["lam"]
        shared: Row = {"kind": "gap", "subject": _fingerprint(subject), "lam": lam}
        parts = [(part, shared | {"start": part.start, "stop": part.stop}) for part in _parts(plan, subject)]
        held = plan.parts[1]
        numbers, documents = held.numbers, held.documents
        for part, settings in _own(parts):
            if not self.stored(settings):
                rows = plan.places[part]
                named = None if documents is None else documents[rows]
                found = measure_chunk(subject, plan.scored[part], plan.mean, lam, numbers[rows], named)
                self.keep(settings, [{"kind": "gap", "lam": lam, **found, **subject.columns}])
            watch(1)
        distributed.wait("gap")
        return [row for _, settings in parts for row in self.stored(settings)]

    def control(self, name: str, common: float) -> list[Row]:
        """A control of the width of the first subject, at the L0 at which dictionaries are compared."""
        plan, first, x = self.plan, self.plan.subjects[0], self.plan.scored

        def measure() -> list[Row]:
            train = plan.parts[0]
            pool = train.take(evenly_spaced(train.num_samples, max(first.num_latents, POOL // first.input_dim)))
            model = control(name, pool, first.num_latents, common, plan.seed)
            subject = dataclasses.replace(of_model(name, model), signed=first.signed, role="control")
            lam = find_weight(subject, x, min(common, DENSEST * subject.input_dim))
            points = _points(subject, x, {lam * share for share in SPREAD}, plan.members[0])
            weight = {"lam": lam, "common_l0": common, "common_lam": lam, "pool": len(pool)}
            return [{"kind": "weight", **weight, **subject.columns}, *points, *_atoms(subject), *_agreement(first, subject)]

        settings = {"kind": "control", "control": name, "first": _fingerprint(first), "common": common}
        return self.once(settings, measure)


def find_weight(subject: Subject, x: Float[np.ndarray, "n input_dim"], l0: float) -> float:
    """The weight at which the best codes of activations have about a mean L0, or half of it where they never have as many.

    It is found on `MATCHED` of the activations, and corrected by the mean L0 of all along the slope that those have.
    """
    few, nonneg = subject.target(x[evenly_spaced(len(x), MATCHED)]), not subject.signed
    options: dict[str, Any] = {"nonneg": nonneg, "accuracy": 0.005, "max_seconds": 120.0}
    with warnings.catch_warnings():
        # The curve tells how far it is from what was wanted.
        warnings.simplefilter("ignore", UserWarning)
        try:
            wanted, (weight, found) = l0, match_l0(few, subject.dictionary, l0, **options)
        except ValueError:
            wanted, (weight, found) = l0 / 2, match_l0(few, subject.dictionary, l0 / 2, **options)
    lam = float(weight)
    if len(few) == len(x):
        return lam
    less = sparse_code(few, subject.dictionary, 0.9 * lam, nonneg=nonneg, init=found.codes)
    here, there = (max(float(np.count_nonzero(each.codes)), 1.0) for each in (found, less))
    slope = math.log(there / here) / -math.log(0.9)
    active = 0
    for part in chunks(len(x), subject.num_latents):
        target = devices.place(subject.target(x[part]), devices.own_mesh())
        active += int(np.count_nonzero(sparse_code(target, subject.dictionary, lam, nonneg=nonneg).codes))
    # Where codes hardly grow with less weight, no weight corrects them.
    return lam * (active / len(x) / wanted) ** (1 / slope) if active and slope > 0.1 else lam


def _own_l0(subject: Subject, x: Float[np.ndarray, "n input_dim"]) -> float:
    """The mean L0 of the encoder's codes."""
    parts = chunks(len(x), subject.num_latents)
    return sum(int(np.count_nonzero(subject.encode(subject.target(x[part])))) for part in parts) / len(x)  # type: ignore[misc]


def _weight(rows: Sequence[Row]) -> Row:
    """The row of the weights."""
    return next(row for row in rows if row["kind"] == "weight")


def _parts(plan: Plan, subject: Subject) -> list[slice]:
    """The chunks of the gap."""
    return chunks(len(plan.places), subject.num_latents)


def _own(parts: Sequence[Any]) -> Sequence[Any]:
    """The share of this process."""
    return parts[distributed.index() :: distributed.count()]


def _points(subject: Subject, x: Float[np.ndarray, "n input_dim"], lams: Iterable[float], members: np.ndarray) -> list[Row]:
    curve = measure_curve(subject, x, sorted(lams), members)
    named = [("lasso", point) for point in curve.points] + ([] if curve.own is None else [("own", curve.own)])
    told = {"kind": "curve", "samples": len(x), **subject.columns}
    return [{**told, "codes": codes, **point._asdict()} for codes, point in named]


def _with_outliers(subject: Subject, plan: Plan, lam: float, points: Sequence[Row]) -> list[Row]:
    """What the scored samples leave unexplained together with outlier tokens, after least squares on the supports."""
    x = plan.left_out
    target = subject.target(x)
    codes = {"lasso": sparse_code(target, subject.dictionary, lam, nonneg=not subject.signed).codes}
    codes |= {} if subject.encode is None else {"own": subject.encode(target)}
    every = np.concatenate([plan.scored, x]).astype(np.float64)
    variance, found = float(np.sum(np.square(every - every.mean(axis=0)))), {}
    for name, values in codes.items():
        sums = Sums(1)
        sums.add(subject, x, target, values, np.zeros(len(x), int))
        without = next(row for row in points if row["codes"] == name and (name == "own" or row["lam"] == lam))
        found[f"{name}_fvu"] = (sum(without["refit_errors"]) + float(sums.errors[1].sum())) / variance
    return [{"kind": "outliers", "rows": len(x), **found, **subject.columns}]


def _fingerprint(subject: Subject) -> list[str]:
    """What tells the rows of a subject from those of others: its numbers, and the name that the rows hold."""
    return [subject.name, subject.identity]


def _atoms(subject: Subject) -> list[Row]:
    return [{"kind": "atoms", **describe_atoms(subject.dictionary)._asdict(), **subject.columns}]


def _agreement(one: Subject, other: Subject) -> list[Row]:
    cosine = agreement(other.dictionary, one.dictionary)
    return [{"kind": "agreement", "other": other.name, "cosine": cosine, **one.columns}]
