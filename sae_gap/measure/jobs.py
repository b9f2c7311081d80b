"""A measurement as jobs whose rows go to a store, so that a run that was stopped goes on where it was.

Many processes share the folder of the store, and the chunks of the gap between them. All else the first process measures while
the others wait, and all read the rows from the store.
"""

import dataclasses
import datetime
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sae_gap.measure.atom_statistics import agreement, describe_atoms
from sae_gap.measure.chunk import measure_chunk
from sae_gap.measure.controls import control
from sae_gap.measure.front import CHUNK, SPREAD, measure_front
from sae_gap.measure.plan import DENSEST, Plan, evenly_spaced
from sae_gap.measure.subject import Subject, of_model
from sae_gap.runtime import distributed, progress
from sae_gap.solvers import match_l0
from sae_gap.storage import results
from sae_gap.storage.results import Row

# The name of the study in its rows.
STUDY = "measure_sae"
# Raised whenever a row comes to hold something else, so that earlier rows are measured again.
FORM = 1
# Samples on which the weight is found.
MATCHED = 500
# Codes of a chunk, and activations that controls learn from, in floats.
CODES, POOL = 2**24, 2**27
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
      The rows of the plan, whether measured now or before. Their `kind` says what they hold: "weight", "front", "gap" (one a
      chunk, to be summed by `gap_lines`), "atoms" or "agreement".

    Raises:
      ValueError: activations cannot be read, or something does not fit; the message says how to mend it.
    """
    plan.check()
    jobs, rows = _Jobs(plan, store), []
    first, *others = plan.subjects
    chunks = sum(len(_own(_chunks(plan, subject))) for subject in plan.subjects)
    with progress.bar(len(plan.subjects) + chunks + len(plan.controls), STUDY, shown=show_progress) as line:
        for subject in plan.subjects:
            front = jobs.front(subject)
            line.update(1)
            rows += front + jobs.gap(subject, front, line.update)
        for name in plan.controls:
            rows += jobs.control(name)
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
            {"study": STUDY, "form": FORM, "activations": self.plan.fingerprint, "seed": self.plan.seed} | settings
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

    def front(self, subject: Subject) -> list[Row]:
        """The weight of a subject, its front around it, and its atoms."""
        plan, x = self.plan, self.plan.scored
        settings = {"lam": plan.lam, "l0": plan.l0, "samples": plan.front_samples}

        def measure() -> list[Row]:
            target = subject.target(x)
            own = None if subject.encode is None else float(np.count_nonzero(subject.encode(target)) / len(x))
            weight: Row = {"lam": plan.lam}
            if plan.lam is None:
                wanted = plan.l0 or own or USUAL * subject.input_dim
                weight = find_weight(subject, target, min(wanted, DENSEST * subject.input_dim))
            weight = {"kind": "weight", **weight, "own_l0": own, **subject.columns}
            return [weight, *_points(subject, x, weight["lam"]), *_atoms(subject)]

        return self.once({"kind": "front", "subject": _fingerprint(subject)} | settings, measure)

    def gap(self, subject: Subject, front: Sequence[Row], watch: Callable[[int], Any]) -> list[Row]:
        """The gap of a subject on every chunk; each process measures chunks of its own."""
        plan = self.plan
        lam = next(row["lam"] for row in front if row["kind"] == "weight")
        shared: Row = {
            "kind": "gap",
            "subject": _fingerprint(subject),
            "total": len(plan.places),
            "held_out": plan.held_out,
            "lam": lam,
        }
        chunks = [shared | {"start": start, "count": count} for start, count in _chunks(plan, subject)]
        for chunk in _own(chunks):
            if not self.stored(chunk):
                places = plan.places[chunk["start"] : chunk["start"] + chunk["count"]]
                found = measure_chunk(subject, plan.summed, places, plan.mean, lam)
                self.keep(chunk, [{"kind": "gap", "lam": lam, **found, **subject.columns}])
            watch(1)
        distributed.wait("gap")
        return [row for chunk in chunks for row in self.stored(chunk)]

    def control(self, name: str) -> list[Row]:
        """A control of the width of the first subject, as sparse as the middle of its front."""
        plan, first, x = self.plan, self.plan.subjects[0], self.plan.scored
        l0s = sorted(row["l0"] for row in self.front(first) if row["kind"] == "front" and row["codes"] == "lasso")
        l0 = l0s[len(l0s) // 2]

        def measure() -> list[Row]:
            train = plan.parts[0]
            pool = train.take(evenly_spaced(train.num_samples, max(first.num_latents, POOL // first.input_dim)))
            model = control(name, pool, first.num_latents, plan.seed)
            subject = dataclasses.replace(of_model(name, model), signed=first.signed, role="control")
            weight = find_weight(subject, subject.target(x), l0)
            rows: list[Row] = [{"kind": "weight", **weight, "pool": len(pool), **subject.columns}]
            return [*rows, *_points(subject, x, weight["lam"]), *_atoms(subject), *_agreement(first, subject)]

        settings = {"kind": "control", "control": name, "first": _fingerprint(first), "l0": l0, "samples": plan.front_samples}
        return self.once(settings, measure)


def find_weight(subject: Subject, target: Float[Array, "n input_dim"], l0: float) -> dict[str, float]:
    """The weight at which codes have about a mean L0, or half of it where they never have as many, and their L0 there."""
    few = target[:: max(1, len(target) // MATCHED)][:MATCHED]
    options: dict[str, Any] = {"nonneg": not subject.signed, "accuracy": 0.02, "max_seconds": 120.0}
    with warnings.catch_warnings():
        # The row tells how far it is from the target.
        warnings.simplefilter("ignore", UserWarning)
        try:
            lam, found = match_l0(few, subject.dictionary, l0, **options)
        except ValueError:
            lam, found = match_l0(few, subject.dictionary, l0 / 2, **options)
    return {"lam": float(lam), "l0": float(jnp.mean(jnp.sum(found.codes != 0, axis=1))), "wanted_l0": l0}


def _chunks(plan: Plan, subject: Subject) -> list[tuple[int, int]]:
    """Where each chunk of the gap starts, and how many samples it has."""
    size, total = max(64, min(CHUNK, CODES // subject.num_latents)), len(plan.places)
    return [(start, min(size, total - start)) for start in range(0, total, size)]


def _own(parts: Sequence[Any]) -> Sequence[Any]:
    """The share of this process."""
    return parts[distributed.index() :: distributed.count()]


def _points(subject: Subject, x: Float[np.ndarray, "n input_dim"], lam: float) -> list[Row]:
    front = measure_front(subject, x, [lam * share for share in SPREAD])
    named = [("lasso", point) for point in front.points] + ([] if front.own is None else [("own", front.own)])
    told = {"kind": "front", "samples": len(x), **subject.columns}
    return [{**told, "codes": codes, **point._asdict()} for codes, point in named]


def _fingerprint(subject: Subject) -> list[str]:
    """What tells the rows of a subject from those of others: its numbers, and the name that the rows hold."""
    return [subject.name, subject.identity]


def _atoms(subject: Subject) -> list[Row]:
    return [{"kind": "atoms", **describe_atoms(subject.dictionary)._asdict(), **subject.columns}]


def _agreement(one: Subject, other: Subject) -> list[Row]:
    cosine = agreement(other.dictionary, one.dictionary)
    return [{"kind": "agreement", "other": other.name, "cosine": cosine, **one.columns}]
