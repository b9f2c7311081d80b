"""What a study consists of: jobs, and the names of their rows."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sae_gap.core import identity
from sae_gap.data.recording import Source
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.learner import Learner
from sae_gap.storage import results
from sae_gap.study.study import Method, Study

# The name of a row within a study: its seed, its method with what that varies, and the step of the fit.
_Name = tuple[int, int, int | None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is written at once: the methods that share a learner, on sources that differ only in their seed.

    Attributes:
      sources: one for each seed.
      methods: those that share the learner.
      keys: of the rows, by seed, number of the method and step.
    """

    sources: Sequence[Source]
    methods: Sequence[Method]
    keys: Mapping[_Name, str]

    @property
    def name(self) -> str:
        """A hash of its rows, the same in every process."""
        return results.key({"rows": sorted(self.keys.values())})

    @property
    def learner(self) -> Learner:
        """The learner that its methods share."""
        return self.methods[0].learner

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps before the end that its methods are scored at."""
        return tuple(sorted({step for method in self.methods for step in method.at}))

    def without(self, present: set[str]) -> "Job":
        """The job of the seeds that lack a row."""
        seeds = {name[0] for name, key in self.keys.items() if key not in present}
        keys = {name: key for name, key in self.keys.items() if name[0] in seeds}
        return Job([source for source in self.sources if source.seed in seeds], self.methods, keys)

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(method.name for method in self.methods))


def jobs(study: Study) -> Iterator[Job]:
    """The jobs of a study, in the order in which they run."""
    groups: dict[str, list[tuple[Source, dict[str, Any]]]] = {}
    for source in study.sources:
        description = source.asdict()
        groups.setdefault(results.key(description | {"seed": None}), []).append((source, description))
    for group in groups.values():
        by_learner: dict[str, list[Method]] = {}
        for method in study.methods(group[0][0]):
            by_learner.setdefault(learner_name(method.learner), []).append(method)
        for methods in by_learner.values():
            keys: dict[_Name, str] = {}
            for (_, description), (place, method) in itertools.product(group, enumerate(methods)):
                described = _identity(study, description, method)
                for step in method.steps:
                    keys[description["seed"], place, step] = results.key(described | {"step": step})
            yield Job([source for source, _ in group], methods, keys)


def learner_name(learner: Learner) -> str:
    """A hash of a learner with its hyper-parameters."""
    return results.key({"learner": identity.describe(learner)})


def _identity(study: Study, description: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """All that decides a row, as plain data."""
    return {
        "study": study.name,
        "protocol": study.protocol,
        "lam": reference_of(study, method).lam,
        "source": description,
        "method": method.name,
        "learner": identity.describe(method.learner),
        "encoder": identity.describe(method.encoder),
        "row": dict(method.row),
        "metrics": sorted([metric.name, metric.version] for metric in study.metrics),
        "precision": identity.precision(),
        "numerics": identity.NUMERICS,
    }


def reference_of(study: Study, method: Method) -> Lasso:
    """What a method's codes are held against: the optimum at the weight that they minimise at, or else at the study's.

    Signed codes can beat the best non-negative ones, so they are held against the best signed ones.
    """
    weight = method.encoder.weight
    return Lasso(study.lam if weight is None else weight, nonneg=not method.encoder.signed)
