"""Fits of several learners at once, a seed on each core of a CPU."""

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from sae_gap.core.types import Task
from sae_gap.data.recording import Source
from sae_gap.learners.learner import Learner
from sae_gap.study import fitting
from sae_gap.study.fitting import Fit
from sae_gap.study.job import Job, learner_name
from sae_gap.study.models import Models
from sae_gap.study.study import Study

# Learners are fitted together where all that run at once have codes, or squares of the width, of no more numbers than this.
_TOGETHER = 2**25


def fit_together(
    study: Study, jobs: Sequence[Job], tasks: Mapping[int, Task], models: Models, watches: Mapping[str, "Watch"]
) -> dict[str, list[Fit]]:
    """Fits the learners of jobs on the same data together, a seed on each core, before any codes are inferred.

    Codes come after all fits because the seconds of encoders are measured with nothing beside them. Bases come first, each
    once, whichever jobs go on from them.

    Returns:
      The fits of each job by its name; those that are not there are made when the turn of the job comes.
    """
    task, workers = next(iter(tasks.values())), fitting.at_once()
    num_train, width = len(task.train.signals), task.width
    if study.timed or workers == 1 or width * max(num_train, width) * workers > _TOGETHER:
        return {}
    waiting = [job for job in jobs if not any(one.on_host for one in chain(job.learner)) and job.learner.needs(task) is None]
    bases: dict[str, tuple[Learner, dict[int, Source]]] = {}
    for job in waiting:
        for base in chain(job.learner)[1:]:
            bases.setdefault(learner_name(base), (base, {}))[1].update({source.seed: source for source in job.sources})
    own = {learner_name(job.learner) for job in waiting}
    todo: list[tuple[Learner, list[Source], Job | None]] = [(job.learner, list(job.sources), job) for job in waiting]
    todo += [(base, list(sources.values()), None) for name, (base, sources) in bases.items() if name not in own]

    def fit(learner: Learner, sources: Sequence[Source], job: Job | None) -> list[Fit]:
        drawn = [tasks[source.seed] for source in sources]
        watch = None if job is None else watches[job.name].or_none
        return models.fit(learner, sources, drawn, () if job is None else job.steps, watch=watch)

    found: dict[str, list[Fit]] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Thread-local JAX configuration is not inherited.
        if len(todo) < 2 or pool.submit(_options).result() != _options():
            return {}
        depths = sorted({len(chain(learner)) for learner, _, _ in todo})
        try:
            for depth in depths:
                level = [one for one in todo if len(chain(one[0])) == depth]
                level.sort(key=lambda one: one[0].work(num_train, task.input_dim, width), reverse=True)
                begun = [(one[2], pool.submit(fit, *one)) for one in level]
                found |= {job.name: future.result() for job, future in begun if job is not None}
                for _, future in begun:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def chain(learner: Learner) -> list[Learner]:
    """A learner, its base, the base of that, and so on."""
    return [learner] if learner.base is None else [learner, *chain(learner.base)]


def _options() -> dict[str, Any]:
    """What is set of JAX in the thread that asks."""
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
        if learner is self._job.learner:
            share = steps / learner.num_steps
            self._line.update((share - self._shares.get(place, 0.0)) / len(self._job.sources))
            self._shares[place] = share

    def end(self) -> None:
        """The job is scored."""
        self._line.update(2 - sum(self._shares.values()) / len(self._job.sources))
