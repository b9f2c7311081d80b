"""A study as data: sources crossed with methods, each a learner crossed with an encoder; its jobs,
their rows, and the key of each row.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sae_gap import catalogue
from sae_gap.core import (
    check_options,
    check_sequence,
    check_type,
    identity,
    is_integer,
    option,
    shown,
)
from sae_gap.core.identity import describe, precision
from sae_gap.data import Source, check_sources
from sae_gap.encoders import Encoder, Lasso
from sae_gap.learners import HostLearner, Learner
from sae_gap.metrics import Metric
from sae_gap.storage import Row, Store, digests

# `strict`: learners see only the training split, and codes are certified; `paper`: as published.
PROTOCOLS = ("strict", "paper")
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Method:
    """A learner, which makes a dictionary, crossed with an encoder, which infers codes on it.

    Args:
      name: names its rows.
      family: the kind of method, for tables and figures: probe, sae, frozen, dictionary_learning,
        oracle, ...
      learner: yields the model.
      encoder: infers the codes.
      row: columns that tell its rows from other methods' in the study, over those of its learner
        and encoder.
      at: steps of the fit to score, each in a row of its own with the column `step`; () scores only
        the end of the fit.
    """

    name: str
    family: str
    learner: Learner
    encoder: Encoder
    row: Mapping[str, Scalar] = field(default_factory=dict)
    at: tuple[int, ...] = ()

    def __post_init__(self):
        check_type("row", self.row, Mapping, "give a value for each column")
        mend = "subclass that of sae_gap for your own"
        check_type(f"the learner of {self.name!r}", self.learner, Learner, mend)
        check_type(f"the encoder of {self.name!r}", self.encoder, Encoder, mend)
        last = self.learner.num_steps
        # A learner on the host has no model before its end.
        first = last if isinstance(self.learner, HostLearner) else 0
        there = all(is_integer(step) and first <= step <= last for step in self.at)
        if not there or len(set(self.at)) < len(self.at):
            steps = f"different steps from {first} to the {last} of its learner"
            raise ValueError(
                f"method {self.name!r} must be scored at {steps}, but at is {shown(self.at)}."
            )

    @property
    def coordinates(self) -> dict[str, Scalar]:
        """The columns that identify its rows: the learner's, the encoder's and its own. An SAE's
        own encoder is "own".
        """
        own = {"inference": "own"} if self.encoder == self.learner.encode else {}
        return {
            **self.encoder.coordinates,
            **self.learner.coordinates,
            **own,
            **self.row,
        }


@dataclass(frozen=True)
class Study:
    """Sources of data crossed with methods.

    Args:
      name: names the study's rows.
      sources: settings, recordings or worlds; those that differ only in their seed are fitted
        together.
      methods: the methods for every source, or a function of one, since some depend on its
        sparsity.
      lam: weight of the l1 norm in the gap of every method whose codes have no weight of their own;
        None compares no codes with an optimum.
      protocol: "strict" or "paper"; what the methods see and how metrics are fitted.
      metrics: the metrics to measure.
      optimum: whether to find the certified optimum, which metrics of the gap need.
      timed: whether the study needs the seconds of fits; learners are then fitted one after the
        other.
      calibrate_on: the rows on which encoders find parameters for a requested L0: "scored", "train"
        or, where other layers of a network are replaced too, those that are scored as they are when
        the network is "clean".
      spread: how many processes share the work: "jobs", or the "rows" that a learner sees, where
        each reads its own and all fit one job together.
      seconds: whether rows have the seconds of coding the ID split.
    """

    name: str
    sources: Sequence[Source]
    methods: Any
    lam: float | None = option(0.1, least=0)
    protocol: str = option("strict", choices=PROTOCOLS)
    metrics: Sequence[Metric] = field(default_factory=catalogue.default_metrics)
    optimum: bool = True
    timed: bool = False
    calibrate_on: str = option("scored", choices=("scored", "train", "clean"))
    spread: str = option("jobs", choices=("jobs", "rows"))
    seconds: bool = True

    def __post_init__(self):
        check_options(self)
        if not callable(self.methods):
            every = self.methods
            object.__setattr__(self, "methods", lambda source: every)
        for metric in self.metrics:
            check_type("a metric", metric, Metric, "give Metric(name, function)")
        check_sources(self.sources)
        if len({digests.key(source.asdict()) for source in self.sources}) < len(
            self.sources
        ):
            raise ValueError(
                "sources must be different settings or recordings, but some are given twice."
            )
        for source in self.sources:
            methods = self.methods(source)
            mend = "give sae_gap.Method(name, family, learner, encoder)"
            check_sequence("methods(source)", methods, Method, mend)
            names = [(method.name, *method.coordinates.items()) for method in methods]
            if len(set(names)) < len(names):
                listed = ", ".join(method.name for method in methods)
                raise ValueError(
                    f"methods must have different names or coordinates, but they are {listed}."
                )


@dataclass(frozen=True)
class Line:
    """A row to measure.

    Attributes:
      source: source of the data.
      method: the method to measure.
      step: step of its fit; None is the end.
      reference: the lasso whose optimum the codes are compared with; None for none.
      columns: columns that identify the row, its key among them.
      decides: everything that decides the row except the metrics.
    """

    source: Source
    method: Method
    step: int | None
    reference: Lasso | None
    columns: Row
    decides: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of everything that decides the row."""
        return self.columns["key"]

    @cached_property
    def cell(self) -> str:
        """A hash of everything that decides the row except the metrics."""
        return digests.key(self.decides)

    def row(self, metrics: Sequence[Metric], seconds: bool) -> Row:
        """The columns of a row that has only some of the metrics, with its seconds or without."""
        # A row without seconds must not take the name of one that adds them.
        decides = self.decides if seconds else self.decides | {"seconds": False}
        return self.columns | {"key": _key(decides, metrics), "cell": self.cell}


class Stored:
    """The stored rows of a study, by the hashes of what decides them. It joins the measurements of
    a line from several runs.

    Raises:
      ValueError: the store holds rows of another study, or of another form.
    """

    def __init__(self, study: Study, store: Store):
        self._study = study
        self._metrics = {
            f"{metric.name} {metric.version}": metric for metric in study.metrics
        }
        # By cell, the latest last.
        self._rows = defaultdict(list)
        for row in sorted(store.rows(), key=lambda row: row.get("date", "")):
            if row.get("study") != study.name:
                raise ValueError(
                    f"{store.folder} holds rows of the study {row.get('study')!r}, where "
                    f"{study.name!r} is to go; move that folder away or choose another."
                )
            self._rows[row.get("cell")].append(row)

    def lacking(self, line: Line) -> list[Metric] | None:
        """The metrics that a line lacks; None if it is complete, and none if it lacks seconds."""
        rows = self._rows[line.cell]
        if any("diverged" in row for row in rows):
            return None
        there = {
            name
            for row in rows
            for name, columns in row["measured"].items()
            if columns is not None or not self._study.optimum
        }
        lacking = [
            metric for name, metric in self._metrics.items() if name not in there
        ]
        timed = not self._study.seconds or any("encode_seconds" in row for row in rows)
        return lacking if lacking or not rows or not timed else None

    def rest(self, job: "Job") -> "Job":
        """The job restricted to the lines that lack something."""
        lines = [line for line in job.lines if self.lacking(line) is not None]
        return replace(job, lines=lines)

    def rows(self, every: Iterable["Job"]) -> list[Row]:
        """The rows of jobs that lack no metric, or only some that every study measures, with the
        columns of the metrics.
        """
        return [
            self._row(line)
            for job in every
            for line in job.lines
            if self._rows[line.cell]
            and all(metric.everywhere for metric in self.lacking(line) or ())
        ]

    def _row(self, line: Line) -> Row:
        rows = self._rows[line.cell]
        owned = {"measured", "cell"}
        wanted: Row = {}
        for row in rows:
            for metric, names in row["measured"].items():
                owned.update(names or ())
                if metric in self._metrics:
                    wanted |= {name: row[name] for name in names or ()}
        joined: Row = {}
        for row in rows:
            joined |= {name: value for name, value in row.items() if name not in owned}
        # Labels are not stored.
        return joined | wanted | line.columns


@dataclass(frozen=True)
class Job:
    """The rows of methods that share a learner, on sources that differ only in their seed.

    Attributes:
      study: the study.
      data: a hash of the sources without their seeds.
      learner: the common learner.
      lines: the rows.
    """

    study: Study
    data: str
    learner: Learner
    lines: Sequence[Line]

    @property
    def sources(self) -> list[Source]:
        """Its sources, one for each seed."""
        return [*{line.source.seed: line.source for line in self.lines}.values()]

    @property
    def steps(self) -> list[int]:
        """The steps at which its methods are scored, beside the end."""
        return sorted({line.step for line in self.lines if line.step is not None})

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(line.method.name for line in self.lines))


def jobs(study: Study) -> Iterator[Job]:
    """The jobs of a study, in the order in which they run."""
    cells = defaultdict(list)
    for source in study.sources:
        # With equal seeds, so that sources that differ only in the seed share a cell.
        alike = replace(source, seed=0)  # type: ignore[type-var]
        cells[digests.key(alike.asdict())].append(source)
    for data, sources in cells.items():
        by_learner: Any = {}
        for method in study.methods(sources[0]):
            by_learner.setdefault(method.learner, []).append(method)
        described = [(source, source.asdict()) for source in sources]
        for learner, methods in by_learner.items():
            lines = [
                _line(study, source, description, method, step)
                for source, description in described
                for method in methods
                for step in method.at or (None,)
            ]
            yield Job(study, data, learner, lines)


def _line(
    study: Study,
    source: Source,
    description: dict[str, Any],
    method: Method,
    step: int | None,
) -> Line:
    encoder = method.encoder
    reference = None
    if study.lam is not None:
        # The optimum is at the weight that the codes minimise at, or else at the study's. Signed
        # codes can beat the best non-negative ones, so they are compared with the best signed ones.
        weight = study.lam if encoder.weight is None else encoder.weight
        reference = Lasso(weight, nonneg=not encoder.signed)
    shared: Row = {
        "study": study.name,
        "protocol": study.protocol,
        "method": method.name,
        "learner": describe(method.learner),
        "encoder": describe(encoder),
        "precision": precision(),
    }
    if reference:
        shared["lam"] = reference.lam
    decides: Row = {"source": description, "row": dict(method.row), "step": step}
    if study.calibrate_on != "scored":
        decides["calibrate_on"] = study.calibrate_on
    decides |= shared | {"numerics": identity.NUMERICS}
    columns = {
        **method.coordinates,
        **shared,
        **description,
        "key": _key(decides, study.metrics),
        "family": method.family,
    }
    if step is not None:
        columns["step"] = step
    return Line(source, method, step, reference, columns, decides)


def _key(decides: dict[str, Any], metrics: Sequence[Metric]) -> str:
    measured = sorted([metric.name, metric.version] for metric in metrics)
    return digests.key(decides | {"metrics": measured})
