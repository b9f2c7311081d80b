"""The whole measurement, as jobs whose rows go to a store, so that a run that was stopped goes on where it was.

Activations are read in chunks, and memory is set by a chunk: what is summed over all of them, or over a held-out part of the
documents, is the gap, its parts and the overlap of supports. Fronts and controls are about the held-out part, of which at most
`front_samples` are coded; controls learn from the other part.

In many processes each measures the gap on chunks of its own, and a control is learned on the devices of all; the rest the first
one does, which alone keeps rows, while the others wait.
"""

import dataclasses
import datetime
import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_number
from sae_gap.data.activations import Activations
from sae_gap.measure.atom_statistics import agreement, describe_atoms
from sae_gap.measure.chunk import measure_chunk
from sae_gap.measure.controls import check_control, control
from sae_gap.measure.front import CHUNK, SPREAD, Front, check_varies, measure_front
from sae_gap.measure.subject import Subject, digest, of_model
from sae_gap.runtime import distributed, progress
from sae_gap.solvers import match_l0
from sae_gap.storage import results
from sae_gap.storage.results import Row

# The name of the study in its rows.
STUDY = "measure_sae"
# Raised whenever a row comes to hold something else, so that earlier rows are measured again.
FORM = 1
# Samples on which the weight is found, and rows by which a file of activations is told from another.
MATCHED, PRINT = 500, 256
# Codes of a chunk, and activations that controls learn from, in floats.
CODES, POOL = 2**24, 2**27
# A lasso code of more non-zeros than this share of the dimensions is no sparse code; an encoder that fires more is held to it.
DENSEST = 1 / 4
# Mean L0, as a share of the dimensions, at which a dictionary without an encoder is measured.
USUAL = 1 / 12


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how.

    Args:
      subjects: SAEs and dictionaries; the first sets the width and the sparsity of the controls.
      activations: all of them.
      lam: the weight; None finds it.
      lam_fraction: the weight of each sample as a fraction of its own λ_max; None finds one weight for all.
      l0: the mean L0 at which a weight is sought; None takes the encoder's own.
      controls: names of control dictionaries.
      held_out: whether the gap is summed over the held-out part alone, as an SAE asks for that was trained on the other.
      max_samples: samples over which the gap is summed, evenly spread; None takes all.
      front_samples: held-out samples that fronts are about, at most.
      seed: of the split, and of whatever controls draw.
    """

    subjects: Sequence[Subject]
    activations: Activations
    lam: float | None = None
    lam_fraction: float | None = None
    l0: float | None = None
    controls: Sequence[str] = ()
    held_out: bool = False
    max_samples: int | None = None
    front_samples: int = 2_000
    seed: int = 0


def run(plan: Plan, store: results.Store, *, show_progress: bool = True) -> list[Row]:
    """Measures all that a plan holds, or reads from the store what has been measured before.

    Many processes, which `distributed.start` has joined, all call this alike and share the store's folder: chunks of the gap
    are shared between them, and the rest each does by itself.

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
    return _Run(plan, store).all(show_progress)


class _Run:
    def __init__(self, plan: Plan, store: results.Store):
        self.plan, self.store = plan, store
        self.train, self.held = plan.activations.split(seed=plan.seed)
        self.check()
        self.print = _activations_print(plan.activations)
        self.summed = self.held if plan.held_out else plan.activations
        self.total = min(plan.max_samples or self.summed.num_samples, self.summed.num_samples)
        self.made_by = results.provenance() | {
            "device": jax.devices()[0].device_kind,
            "jax_x64": bool(jax.config.values["jax_enable_x64"]),
        }

    def check(self) -> None:
        """Raises a ValueError where something would come to light only after minutes, or as figures of another thing."""
        plan = self.plan
        names = [subject.name for subject in plan.subjects] + list(plan.controls)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two of the SAEs, dictionaries and controls are called {twice!r}; give each a name of its own.")
        if self.held.num_samples < 2:
            raise ValueError(
                f"of {plan.activations.num_samples} activations only {self.held.num_samples} is held out, "
                "which has no variance to explain; give some hundreds."
            )
        check_varies(self.scored)
        if plan.lam_fraction is not None:
            check_number("lam_fraction", plan.lam_fraction, above=0, below=1)
        if plan.lam is not None:
            for subject in plan.subjects:
                self.check_weight(subject, plan.lam)
        densest = min(DENSEST * subject.input_dim for subject in plan.subjects)
        if plan.l0 is not None and plan.l0 > densest:
            raise ValueError(
                f"a mean L0 of {plan.l0:g} is more than a quarter of the dimensions, where codes are no longer sparse; "
                f"ask for at most {densest:g}."
            )
        for name in plan.controls:
            check_control(name, self.train.num_samples, plan.subjects[0].num_latents)

    def check_weight(self, subject: Subject, lam: float) -> None:
        """Raises a ValueError where a weight leaves no code, so that there is no front and nothing to be near."""
        top = float(
            jnp.max(lasso_problem.lambda_max(subject.target(self.scored), subject.dictionary, nonneg=not subject.signed))
        )
        if lam >= top:
            raise ValueError(
                f"lam is {lam:g}, which is not below {top:.3g}, the largest λ_max of the samples on {subject.name!r}, "
                "and leaves no code; give less."
            )

    def all(self, show_progress: bool) -> list[Row]:
        plan = self.plan
        jobs: list[Callable[[], list[Row]]] = []
        for subject in plan.subjects:
            jobs += [functools.partial(self.front, subject), functools.partial(self.atoms, subject)]
            size = self.size(subject) * distributed.count()
            jobs += [functools.partial(self.gaps, subject, start, size) for start in range(0, self.total, size)]
        jobs += [functools.partial(self.control, name) for name in plan.controls]
        for one, other in itertools.combinations(plan.subjects, 2):
            if one.dictionary.shape == other.dictionary.shape:
                jobs.append(functools.partial(self.agreement, one, other))
        rows = []
        with progress.bar(len(jobs), STUDY, shown=show_progress) as line:
            for job in jobs:
                rows += job()
                line.update(1)
        return rows

    def once(self, kind: str, settings: Mapping[str, Any], measure: Callable[[], list[dict[str, Any]]]) -> list[Row]:
        """The rows of a job, from the store if they are there."""
        job = self.job(kind, settings)
        return self.stored(job) or self.kept(job, measure())

    def job(self, kind: str, settings: Mapping[str, Any]) -> str:
        return results.key({"study": STUDY, "form": FORM, "kind": kind, "activations": self.print} | dict(settings))

    def kept(self, job: str, measured: Sequence[dict[str, Any]]) -> list[Row]:
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        common = {"study": STUDY, "job": job, "activations": self.print, "seed": self.plan.seed, "date": date} | self.made_by
        self.store.append({"key": results.key({"job": job, "part": part})} | common | row for part, row in enumerate(measured))
        return self.stored(job)

    def stored(self, job: str) -> list[Row]:
        return [row for row in self.store.rows() if row["job"] == job]

    @functools.cached_property
    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """The mean of the samples over which the gap is summed; all processes must ask for it together."""
        places = spread(self.summed.num_samples, self.total)

        starts = range(0, self.total, CHUNK)[distributed.index() :: distributed.count()]
        own = {s: self.summed.take(places[s : s + CHUNK]).sum(axis=0, dtype=np.float64) for s in starts}
        sums = {start: part for share in distributed.gather(own) for start, part in share.items()}
        return sum((sums[start] for start in sorted(sums)), np.zeros(self.summed.input_dim)) / self.total

    @functools.cached_property
    def scored(self) -> Float[np.ndarray, "n input_dim"]:
        """The held-out samples that fronts are about, evenly spread."""
        return self.held.take(spread(self.held.num_samples, self.plan.front_samples))

    def weight(self, subject: Subject, target: Float[Array, "n input_dim"], l0: float) -> dict[str, float]:
        """The weight at which codes have about a mean L0, or half of it where they never have as many, and their L0 there."""
        few = target[:: max(1, len(target) // MATCHED)][:MATCHED]
        options: dict[str, Any] = {"nonneg": not subject.signed, "accuracy": 0.02, "max_seconds": 120.0}
        with warnings.catch_warnings():
            # How far it is from the target is told by the row.
            warnings.simplefilter("ignore", UserWarning)
            try:
                lam, found = match_l0(few, subject.dictionary, l0, **options)
            except ValueError:
                lam, found = match_l0(few, subject.dictionary, l0 / 2, **options)
        return {"lam": float(lam), "l0": float(jnp.mean(jnp.sum(found.codes != 0, axis=1))), "wanted_l0": l0}

    def front(self, subject: Subject) -> list[Row]:
        plan = self.plan
        settings = {"subject": _print(subject), "lam": plan.lam, "fraction": plan.lam_fraction, "l0": plan.l0}

        def measure() -> list[dict[str, Any]]:
            x = self.scored
            target = subject.target(x)
            own = None if subject.encode is None else float(np.count_nonzero(subject.encode(target)) / len(x))
            if plan.lam is not None:
                weight: dict[str, Any] = {"lam": plan.lam}
            elif plan.lam_fraction is not None:
                top = lasso_problem.lambda_max(target, subject.dictionary, nonneg=not subject.signed)
                weight = {"lam": plan.lam_fraction * float(jnp.median(top))}
            else:
                wanted = plan.l0 or own or USUAL * subject.input_dim
                weight = self.weight(subject, target, min(wanted, DENSEST * subject.input_dim))
            found = measure_front(subject, x, [weight["lam"] * share for share in SPREAD])
            return [{"kind": "weight", **weight, "own_l0": own, **_of(subject)}, *self.points(subject, found)]

        return self.once("front", settings | {"samples": plan.front_samples, "seed": plan.seed}, measure)

    def points(self, subject: Subject, front: Front) -> list[dict[str, Any]]:
        samples = min(self.plan.front_samples, self.held.num_samples)
        named = [("lasso", point) for point in front.points] + ([] if front.own is None else [("own", front.own)])
        return [
            {"kind": "front", "codes": codes, **point._asdict(), "samples": samples, **_of(subject)} for codes, point in named
        ]

    def atoms(self, subject: Subject) -> list[Row]:
        return self.once("atoms", {"subject": _print(subject)}, lambda: [_atoms_row(subject)])

    def agreement(self, one: Subject, other: Subject) -> list[Row]:
        settings = {"subject": _print(one), "other": _print(other)}
        return self.once("agreement", settings, lambda: [_agreement_row(one, other)])

    def control(self, name: str) -> list[Row]:
        plan, first = self.plan, self.plan.subjects[0]
        # As sparse as the middle of the first front, whatever set that.
        middle = [row for row in self.front(first) if row["kind"] == "front" and row["codes"] == "lasso"]
        l0 = sorted(row["l0"] for row in middle)[len(middle) // 2]
        settings = {"control": name, "first": _print(first), "l0": l0, "samples": plan.front_samples, "seed": plan.seed}
        job = self.job("control", settings)
        if found := self.stored(job):
            return found
        places = spread(self.train.num_samples, max(first.num_latents, POOL // first.input_dim))
        pool = self.train.take(places)
        model = control(name, pool, first.num_latents, plan.seed)

        def measure() -> list[dict[str, Any]]:
            subject = dataclasses.replace(of_model(name, model), signed=first.signed)
            x = self.scored
            weight = self.weight(subject, subject.target(x), l0)
            front = measure_front(subject, x, [weight["lam"] * share for share in SPREAD])
            rows = [{"kind": "weight", **weight, "pool": len(pool), **_of(subject, "control")}]
            rows += [row | _of(subject, "control") for row in (*self.points(subject, front), _atoms_row(subject))]
            return [*rows, _agreement_row(first, subject) | _of(first)]

        return self.once("control", settings, measure)

    def size(self, subject: Subject) -> int:
        """Samples of a chunk."""
        return max(64, min(CHUNK, CODES // subject.num_latents))

    def gaps(self, subject: Subject, start: int, count: int) -> list[Row]:
        """The gap on as many chunks as there are processes, one for each."""
        plan = self.plan
        lam = next(row["lam"] for row in self.front(subject) if row["kind"] == "weight")
        settings: dict[str, Any] = {"subject": _print(subject), "total": self.total}
        settings |= {"lam": plan.lam_fraction or lam, "fraction": plan.lam_fraction is not None}
        settings |= {"held_out": True, "seed": plan.seed} if plan.held_out else {}
        starts = range(start, min(start + count, self.total), self.size(subject))
        chunks = {first: min(self.size(subject), self.total - first) for first in starts}
        jobs = {first: self.job("gap", settings | {"start": first, "count": size}) for first, size in chunks.items()}
        found = {first: self.stored(job) for first, job in jobs.items()}
        # Where one process has written a row that another has not seen yet, all must do the same.
        absent = distributed.gather([first for first, rows in found.items() if not rows])
        lacking = sorted({first for share in absent for first in share})
        if lacking:
            mean = self.mean
            mine = lacking[distributed.index() :: distributed.count()]
            for first in mine:
                self.kept(jobs[first], [self.gap(subject, lam, first, chunks[first], mean)])
            distributed.wait("chunks of the gap")
            found = {first: self.stored(job) for first, job in jobs.items()}
        return [row for first in chunks for row in found[first]]

    def gap(self, subject: Subject, lam: float, start: int, count: int, mean: np.ndarray) -> dict[str, Any]:
        places = spread(self.summed.num_samples, self.total)[start : start + count]
        fraction = self.plan.lam_fraction
        found = measure_chunk(subject, self.summed, places, mean, lam=lam, lam_fraction=fraction)
        return {"kind": "gap", "lam": lam, "lam_fraction": fraction, **found, **_of(subject)}


def _of(subject: Subject, role: str | None = None) -> dict[str, Any]:
    """The columns that tell a row of a subject from those of others."""
    role = role or ("dictionary" if subject.encode is None else "sae")
    return {"dictionary": subject.name, "role": role, "num_latents": subject.num_latents, "input_dim": subject.input_dim}


def _print(subject: Subject) -> list[str]:
    """What tells the rows of a subject from those of others: its numbers, and the name that the rows hold."""
    return [subject.name, subject.identity]


def _atoms_row(subject: Subject) -> dict[str, Any]:
    return {"kind": "atoms", **describe_atoms(subject.dictionary)._asdict(), **_of(subject)}


def _agreement_row(one: Subject, other: Subject) -> dict[str, Any]:
    cosine = agreement(other.dictionary, one.dictionary)
    return {"kind": "agreement", "other": other.name, "cosine": cosine, **_of(one)}


def spread(count: int, most: int) -> np.ndarray:
    """At most so many indices below `count`, evenly spread, each once."""
    return np.arange(count) if most >= count else np.arange(most) * count // most


def _activations_print(activations: Activations) -> str:
    rows = activations.take(spread(activations.num_samples, PRINT))
    documents = [] if activations.documents is None else [activations.documents]
    return digest([np.array([activations.num_samples, activations.input_dim]), rows, *documents])
