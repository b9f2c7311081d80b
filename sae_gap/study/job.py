"""What a study consists of: jobs of rows, and what each row is known by, all of which is decided
here.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sae_gap.core import identity
from sae_gap.data.recording import Source
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.learner import Learner
from sae_gap.storage import results
from sae_gap.study.study import Method, Study


@dataclasses.dataclass(frozen=True)
class Line:
    """A row that is to be measured.

    Attributes:
      source: of the data.
      method: what is measured.
      step: of its fit; None is the end.
      reference: the lasso whose optimum the codes are held against.
      columns: what tells the row from all others, its key among them.
    """

    source: Source
    method: Method
    step: int | None
    reference: Lasso
    columns: results.Row

    @property
    def key(self) -> str:
        """A hash of all that decides the row."""
        return self.columns["key"]


@dataclasses.dataclass(frozen=True)
class Job:
    """The rows that are stored at once: of methods that share a learner, on sources that differ
    only in their seed.
    """

    learner: Learner
    lines: Sequence[Line]

    @property
    def name(self) -> str:
        """A hash of its rows, the same in every process."""
        return results.key({"rows": sorted(self.keys)})

    @property
    def keys(self) -> set[str]:
        """Those of its rows."""
        return {line.key for line in self.lines}

    @property
    def sources(self) -> list[Source]:
        """One for each seed."""
        return list(dict.fromkeys(line.source for line in self.lines))

    @property
    def steps(self) -> list[int]:
        """The steps that its methods are scored at, beside the end."""
        return sorted({line.step for line in self.lines if line.step is not None})

    def without(self, present: set[str]) -> "Job":
        """The job of the seeds that lack a row."""
        lacking = {line.source for line in self.lines if line.key not in present}
        return Job(self.learner, [line for line in self.lines if line.source in lacking])

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(line.method.name for line in self.lines))


def jobs(study: Study) -> Iterator[Job]:
    """The jobs of a study, in the order in which they run."""
    cells: dict[Source, list[Source]] = {}
    for source in study.sources:
        cells.setdefault(seedless(source), []).append(source)
    for sources in cells.values():
        by_learner: dict[Learner, list[Method]] = {}
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
            yield Job(learner, lines)


def seedless(source: Source) -> Source:
    """A source with the seed 0, which sources have in common that differ only in their seed."""
    return dataclasses.replace(source, seed=0)


def _line(
    study: Study, source: Source, description: dict[str, Any], method: Method, step: int | None
) -> Line:
    reference = reference_of(study, method)
    shared = {
        "study": study.name,
        "protocol": study.protocol,
        "lam": reference.lam,
        "method": method.name,
        "learner": identity.describe(method.learner),
        "encoder": identity.describe(method.encoder),
        "precision": identity.precision(),
    }
    metrics = sorted([metric.name, metric.version] for metric in study.metrics)
    decides = {"source": description, "row": dict(method.row), "metrics": metrics, "step": step}
    key = results.key(shared | decides | {"numerics": identity.NUMERICS})
    columns = {**method.coordinates, **shared, **description, "key": key, "family": method.family}
    if step is not None:
        columns["step"] = step
    return Line(source, method, step, reference, columns)


def reference_of(study: Study, method: Method) -> Lasso:
    """What a method's codes are held against: the optimum at the weight that they minimise at, or
    else at the study's.

    Signed codes can beat the best non-negative ones, so they are held against the best signed ones.
    """
    weight = method.encoder.weight
    return Lasso(study.lam if weight is None else weight, nonneg=not method.encoder.signed)
