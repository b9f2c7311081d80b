"""Fits of several learners at once, a seed on each core of a CPU."""

import collections
import concurrent.futures
import itertools
from collections.abc import Mapping, Sequence

import jax
from absl import logging
from tqdm import tqdm

from sae_gap.core import Task
from sae_gap.learners import HostLearner, Learner
from sae_gap.study import Fit, Job, Models, fitting

# Fit learners together only if the codes, or squares of the width, of all that run at once have at
# most so many numbers.
_TOGETHER = 2**25

# The fit of each learner on each seed.
Fits = dict[tuple[Learner, int], Fit]


def fit_together(
    jobs: Sequence[Job], tasks: Mapping[int, Task], models: Models, line: tqdm
) -> Fits:
    """Fits the learners of jobs on the same data together, a seed on each core, before any codes
    are inferred.

    Codes come after all fits, since encoders are timed with nothing running beside them. Bases come
    first, each once, however many jobs build on them.

    Args:
      jobs: jobs whose learners are fitted.
      tasks: the data by seed.
      models: where to keep fits.
      line: line of progress, which advances by one for each job whose fits are done.

    Returns:
      The fits by learner and seed; missing ones are fitted when their job runs.
    """
    task, workers = next(iter(tasks.values())), fitting.at_once()
    if workers == 1 or task.width * max(len(task.train.signals), task.width) * workers > _TOGETHER:
        return {}
    needed: dict[Learner, list[Job]] = collections.defaultdict(list)
    for job in jobs:
        parts = chain(job.learner)
        if job.learner.ready is None and not any(isinstance(part, HostLearner) for part in parts):
            for learner in parts:
                needed[learner].append(job)

    def depth(learner: Learner) -> int:
        return len(chain(learner))

    def fit(learner: Learner) -> Fits:
        needed_by = needed[learner]
        logging.info("fitting for %s", "; ".join(map(str, needed_by)))
        sources = {source.seed: source for job in needed_by for source in job.sources}
        scored = [job for job in needed_by if job.learner == learner]
        steps = sorted({step for job in scored for step in job.steps})
        fits = models.fit(learner, list(sources.values()), [tasks[seed] for seed in sources], steps)
        line.update(len(scored))
        return {(learner, seed): fitted for seed, fitted in zip(sources, fits, strict=True)}

    fits: Fits = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Threads do not inherit thread-local JAX configuration.
        if pool.submit(lambda: dict(jax.config.values)).result() != dict(jax.config.values):
            return {}
        # The longest first, so that no long fit starts last and runs alone.
        ordered = sorted(needed, key=lambda learner: (depth(learner), -learner.num_steps))
        for _, level in itertools.groupby(ordered, depth):
            for fitted in pool.map(fit, level):
                fits |= fitted
    return fits


def chain(learner: Learner) -> list[Learner]:
    """The learner after all its bases, the innermost first."""
    return [learner] if learner.base is None else [*chain(learner.base), learner]
