"""The runner of studies: fits or reads what a study lacks, then infers, scores and stores it row by
row.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import jax
from absl import logging

from sae_gap.core import Task, check_shard, check_type
from sae_gap.data import Source
from sae_gap.learners import HostLearner, Learner
from sae_gap.runtime import devices, distributed, progress
from sae_gap.storage import SIZES, Row, Store
from sae_gap.study import Fit, Job, Models, Stored, Study, at_once, jobs, score

# Fit learners together only if the codes, or squares of the width, of all that run at once have at
# most so many numbers.
_TOGETHER = 2**25

# Fits by learner and seed.
Fits = dict[tuple[Learner, int], Fit]


def run(
    study: Study,
    store: Store,
    shard: tuple[int, int] | None = None,
    *,
    models: Models | None = None,
    show_progress: bool = True,
) -> list[Row]:
    """Runs whatever the store lacks, and returns the study's rows.

    Each job fits one learner for all seeds, or reads its models, and infers with every method that
    shares it; each row is stored as soon as it is measured. A method is left out, with a line in
    the log, if its task lacks what it needs. On a CPU the learners of all jobs on the same data are
    fitted first, a seed on each core, unless the study asks for their seconds.

    Each process that `distributed.start` has joined runs its share of the jobs on its own devices;
    they share the folders of the store and of the models.

    Args:
      study: the study to run.
      store: where to keep rows.
      shard: `(index, count)`: run only each count-th job, beginning with index; the rest are
        another run's. None takes the index of this process and the count of all.
      models: where to keep fitted models; None keeps them in the store's folder.
      show_progress: whether to show a line of progress on a terminal or in a notebook, or each
        minute in the log elsewhere.

    Returns:
      The study's rows in the store so far, including other shards', in the order of sources and
      methods.

    Raises:
      ValueError: the shard is out of range, or the store holds rows of another study or another
        form.
      UnfinishedError: the minutes of `progress.limit` were over before a fit or a row was started.
    """
    check_type("study", study, Study, "give sae_gap.Study(name, sources, methods)")
    check_type("store", store, Store, "give sae_gap.Store(directory)")
    check_type("models", models, (Models, type(None)), "give sae_gap.Models(directory)")
    if shard is None:
        index = distributed.index()
        count = distributed.count()
    else:
        index, count = check_shard(shard)
    models = models or Models(store.folder / "models")
    every = list(jobs(study))
    stored = Stored(study, store)
    mine = every if study.spread == "rows" else every[index::count]
    lacking = [job for job in map(stored.rest, mine) if job.lines]
    keys = [row.cell for job in lacking for row in job.lines]
    done = sum(len(job.lines) for job in mine) - len(keys)
    with progress.line(
        what=study.name, unit="fits and rows", shown=show_progress
    ) as bar:
        bar.begin(_fits_of(lacking, models), keys, done)
        for data, jobs_on_it in groupby(lacking, lambda job: job.data):
            group = list(jobs_on_it)
            _Group(study, data, group, store, stored, models, bar).run()
    left = _left(study, [key for key in keys if bar.shares[key] < 1])
    made = Stored(study, store).rows(every)
    if study.lam is not None:
        made = _in_order(study, made)
    if left:
        text = (
            f"{bar.total - bar.n:.0f} of {bar.total} fits and rows of {study.name} are "
            "left, since the minutes are over; the same command goes on."
        )
        dictionaries = {
            row.columns["dictionary"]
            for job in every
            for row in job.lines
            if row.cell in left
        }
        raise progress.UnfinishedError(text, made, dictionaries)
    return made


def _fits_of(lacking: Sequence[Job], models: Models) -> list[tuple[Learner, str, int]]:
    """The fits that jobs lack, as the line of progress names them."""
    return [
        (learner, job.data, source.seed)
        for job in lacking
        for source in job.sources
        for learner in models.missing(job.learner, source, job.steps)
    ]


def _left(study: Study, keys: list[str]) -> list[str]:
    """The keys of rows that all processes leave, once the minutes are over; it waits for all."""
    lefts = distributed.gather(keys if progress.is_over() else [])
    # Only the first process scores rows that all share.
    return lefts[0] if study.spread == "rows" else list(itertools.chain(*lefts))


@dataclass
class _Group:
    """The jobs of a study on data that differ only in their seed."""

    study: Study
    data: str
    jobs: list[Job]
    store: Store
    stored: Stored
    models: Models
    bar: progress.Line

    def run(self) -> None:
        """Fits, scores and stores the jobs."""
        sources = {source.seed: source for job in self.jobs for source in job.sources}
        tasks = {seed: source.task() for seed, source in sources.items()}
        first = next(iter(tasks.values()))
        able = [job for job in self.jobs if job.learner.needs(first) is None]
        fits: Fits = {}
        if able and not self.study.timed and not self._shared:
            fits = self._fit_together(able, tasks)
        for job in self.jobs:
            if self._is_over():
                return
            self.bar.set_postfix_str(str(job)[:60])
            lacking = job.learner.needs(first)
            if lacking is None:
                logging.info("running %s", job)
                self._run_job(job, tasks, fits)
                continue
            logging.warning("left out %s: the data lack %s", job, lacking)
            for row in job.lines:
                self.bar.report(row.cell)

    @property
    def _shared(self) -> bool:
        """True if all processes fit one job together."""
        return self.study.spread == "rows"

    def _is_over(self) -> bool:
        over = progress.is_over()
        # Processes that fit together stop together.
        return distributed.from_first(over) if self._shared else over

    def _run_job(self, job: Job, tasks: dict[int, Task], fits: Fits) -> None:
        drawn = [tasks[source.seed] for source in job.sources]
        keys = [(job.learner, source.seed) for source in job.sources]
        if all(key in fits for key in keys):
            fitted = [fits[key] for key in keys]
        else:
            mesh = devices.mesh() if self._shared else None
            fitted = self.models.fit(
                job.learner, job.sources, drawn, job.steps, mesh=mesh, watch=self._watch
            )
        if self._shared:
            # A process that reads a base before the first one has written it would fit it again.
            distributed.wait(self.data)
            if not distributed.is_first():
                return
        for row in score(job, drawn, fitted, self.stored):
            self.store.put(row)
            self.bar.report(row["cell"])
            if progress.is_over():
                break

    def _watch(self, learner: Learner, source: Source, share: float) -> None:
        self.bar.report((learner, self.data, source.seed), share)

    def _fit_together(self, able: list[Job], tasks: dict[int, Task]) -> Fits:
        """Fits the learners of jobs together, a seed on each core, before any codes are inferred.

        Codes come after all fits, since encoders are timed with nothing running beside them. Bases
        come first, each once, however many jobs build on them. A fit that is not among those that
        it returns is made when its job runs.
        """
        workers = at_once()
        task = next(iter(tasks.values()))
        numbers = task.width * max(len(task.train.signals), task.width) * workers
        if workers == 1 or numbers > _TOGETHER:
            return {}
        needed_by = _needed_by(able)
        fits: Fits = {}
        with ThreadPoolExecutor(workers) as pool:
            # Threads do not inherit thread-local JAX configuration.
            inherited = pool.submit(lambda: dict(jax.config.values)).result()
            if inherited != dict(jax.config.values):
                return {}
            # The longest first, so that no long fit starts last and runs alone.
            ordered = sorted(
                needed_by, key=lambda learner: (_depth(learner), -learner.num_steps)
            )
            for _, level in groupby(ordered, _depth):
                fitted = pool.map(
                    lambda learner: self._fit(learner, needed_by[learner], tasks), level
                )
                for made in fitted:
                    fits |= made
        return fits

    def _fit(self, learner: Learner, needed_by: list[Job], tasks: dict) -> Fits:
        """The fits of one learner for all jobs that need it."""
        if progress.is_over():
            return {}
        logging.info("fitting for %s", "; ".join(map(str, needed_by)))
        sources = {source.seed: source for job in needed_by for source in job.sources}
        scored = [job for job in needed_by if job.learner == learner]
        steps = sorted({step for job in scored for step in job.steps})
        drawn = [tasks[seed] for seed in sources]
        fits = self.models.fit(
            learner, list(sources.values()), drawn, steps, watch=self._watch
        )
        return {
            (learner, seed): fitted for seed, fitted in zip(sources, fits, strict=True)
        }


def _needed_by(able: list[Job]) -> dict[Learner, list[Job]]:
    """The jobs that need each learner, bases included; without those that learn on the host."""
    needed_by = defaultdict(list)
    for job in able:
        learners = chain(job.learner)
        on_host = any(isinstance(learner, HostLearner) for learner in learners)
        if not (job.learner.ready or on_host):
            for learner in learners:
                needed_by[learner].append(job)
    return needed_by


def chain(learner: Learner) -> list[Learner]:
    """The learner after all its bases, the innermost first."""
    return [*chain(learner.base), learner] if learner.base else [learner]


def _depth(learner: Learner) -> int:
    return len(chain(learner))


def _in_order(study: Study, rows: list[Row]) -> list[Row]:
    """Sorts rows by their sizes, then by their methods, and by what these vary."""
    names = [
        method.name for source in study.sources for method in study.methods(source)
    ]

    def place_of(row: Row) -> tuple:
        cell = [(row.get(size) is not None, row.get(size) or 0) for size in SIZES]
        varied = [row.get(name) or 0 for name in ("lam", "iterations", "step")]
        return (*cell, names.index(row["method"]), *varied, row["seed"])

    return sorted(rows, key=place_of)
