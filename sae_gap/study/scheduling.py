"""Fits of several learners at once, a seed on each core of a CPU."""

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence

import jax
from tqdm import tqdm

from sae_gap.core.types import Task
from sae_gap.data.recording import Source
from sae_gap.learners.learner import HostLearner, Learner
from sae_gap.study import fitting
from sae_gap.study.fitting import Fit
from sae_gap.study.job import Job
from sae_gap.study.models import Models

# Learners are fitted together where all that run at once have codes, or squares of the width, of no more numbers than this.
_TOGETHER = 2**25


@dataclasses.dataclass
class _Request:
    """A learner that jobs ask for, by itself or as a base."""

    learner: Learner
    sources: dict[int, Source] = dataclasses.field(default_factory=dict)
    steps: set[int] = dataclasses.field(default_factory=set)
    watch: "Watch | None" = None


def fit_together(
    jobs: Sequence[Job], tasks: Mapping[int, Task], models: Models, watches: Mapping[str, "Watch"]
) -> dict[tuple[Learner, int], Fit]:
    """Fits the learners of jobs on the same data together, a seed on each core, before any codes are inferred.

    Codes come after all fits because the seconds of encoders are measured with nothing beside them. Bases come first, each
    once, whichever jobs go on from them.

    Returns:
      The fits by learner and seed; those that are not there are made when the turn of their job comes.
    """
    task, workers = next(iter(tasks.values())), fitting.at_once()
    if workers == 1 or task.width * max(len(task.train.signals), task.width) * workers > _TOGETHER:
        return {}
    levels: dict[int, dict[Learner, _Request]] = {}
    for job in jobs:
        learners = chain(job.learner)
        if any(isinstance(learner, HostLearner) for learner in learners):
            continue
        for depth, learner in enumerate(reversed(learners)):
            request = levels.setdefault(depth, {}).setdefault(learner, _Request(learner))
            request.sources |= {source.seed: source for source in job.sources}
            if learner is job.learner:
                request.steps.update(job.steps)
                request.watch = watches[job.name].or_none

    def fit(request: _Request) -> list[Fit]:
        drawn = [tasks[seed] for seed in request.sources]
        return models.fit(request.learner, list(request.sources.values()), drawn, sorted(request.steps), watch=request.watch)

    fits: dict[tuple[Learner, int], Fit] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Thread-local JAX configuration is not inherited.
        if pool.submit(_configuration).result() != _configuration():
            return {}
        for _, level in sorted(levels.items()):
            for (learner, request), fitted in zip(level.items(), pool.map(fit, level.values()), strict=True):
                fits |= {(learner, seed): each for seed, each in zip(request.sources, fitted, strict=True)}
    return fits


def chain(learner: Learner) -> list[Learner]:
    """A learner, its base, the base of that, and so on."""
    return [learner] if learner.base is None else [learner, *chain(learner.base)]


def _configuration() -> dict:
    return dict(jax.config.values)


class Watch:
    """Tells a line of progress how far a job is, which counts 1 when its fits are done and 1 when it is scored."""

    def __init__(self, job: Job, line: tqdm):
        self._job, self._line, self._shares = job, line, dict[int, float]()

    @property
    def or_none(self) -> "Watch | None":
        """None where nobody looks, so that fits need not stop to tell."""
        return None if self._line.disable else self

    def __call__(self, learner: Learner, place: int, steps: int) -> None:
        # Bases are not reported: several jobs may share one.
        if learner == self._job.learner:
            share = steps / learner.num_steps
            self._line.update((share - self._shares.get(place, 0.0)) / len(self._job.sources))
            self._shares[place] = share

    def end(self) -> None:
        """The job is scored."""
        self._line.update(2 - sum(self._shares.values()) / len(self._job.sources))
