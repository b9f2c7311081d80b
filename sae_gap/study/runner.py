"""The runner of studies: fits or reads what a study lacks, then infers, scores and stores it row by
row.
"""

import collections
import concurrent.futures
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging

from sae_gap.core import check_shard, check_type
from sae_gap.data import draw
from sae_gap.learners import HostLearner, Learner
from sae_gap.runtime import devices, distributed, progress
from sae_gap.storage import results
from sae_gap.study import Line, Models, Stored, Study, at_once, jobs, score

# Fit learners together only if the codes, or squares of the width, of all that run at once have at
# most so many numbers.
_TOGETHER = 2**25
# Columns whose product a step of a fit, and a row, take time in proportion to.
_SIZES = ("num_samples", "num_latents", "input_dim")


class UnfinishedError(Exception):
    """The minutes of `progress.limit` are over, and a study is not finished. The text says how much
    is left.

    Attributes:
      rows: the rows of the study that are there.
      lines: those that are not.
    """

    def __init__(self, text: str, rows: Sequence[results.Row], lines: Sequence[Line]):
        super().__init__(text)
        self.rows = [*rows]
        self.lines = [*lines]

    @property
    def dictionaries(self) -> set[str]:
        """The dictionaries that lack a row."""
        return {line.columns["dictionary"] for line in self.lines}


def run(
    study: Study,
    store: results.Store,
    shard: tuple[int, int] | None = None,
    *,
    models: Models | None = None,
    show_progress: bool = True,
) -> list[results.Row]:
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
    check_type("store", store, results.Store, "give sae_gap.Store(directory)")
    check_type("models", models, (Models, type(None)), "give sae_gap.Models(directory)")
    index, count = (
        (distributed.index(), distributed.count()) if shard is None else check_shard(shard)
    )
    models = Models(store.folder / "models") if models is None else models
    every, stored = list(jobs(study)), Stored(study, store)
    mine = every if study.spread == "rows" else every[index::count]
    lacking = [job for job in map(stored.rest, mine) if job.lines]
    pace = _plan(mine, lacking, stored, models)
    with progress.line(pace, study.name, unit="fits and rows", shown=show_progress) as line:
        for _, cell in itertools.groupby(lacking, lambda job: job.data):
            _run_cell(list(cell), store, stored, models, line)
    # This waits for all processes. Only the first one scores rows that all share.
    rests = distributed.gather(pace.rest if progress.is_over() else set())
    rest = rests[0] if study.spread == "rows" else set().union(*rests)
    found = Stored(study, store).rows(every)
    found = found if study.lam is None else _in_order(study, found)
    if rest:
        text = f"{len(rest)} fits and rows of {study.name} are left, since the minutes are over"
        lines = [line for job in every for line in job.lines if line.cell in rest]
        raise UnfinishedError(f"{text}; the same command goes on.", found, lines)
    return found


def _plan(mine, lacking, stored, models):
    """The pace of what jobs lack: fits by learner, data and seed, rows by their cell."""
    fits, rows = {}, {}
    for job in lacking:
        for line in job.lines:
            size = math.prod(line.columns.get(name) or 1 for name in _SIZES)
            if stored.lacking(line) is not None:
                rows[line.cell] = type(line.method.encoder).__name__, size
        for source in job.sources:
            for learner in models.missing(job.learner, source, job.steps):
                work = learner.num_steps * size
                fits[learner, job.data, source.seed] = type(learner).__name__, work
    return progress.Pace(fits, rows, sum(len(job.lines) for job in mine) - len(rows))


def _run_cell(cell, store, stored, models, line):
    """Fits, scores and stores the jobs of a study on data that differ only in their seed."""
    study, data = cell[0].study, cell[0].data
    together = study.spread == "rows"
    if progress.is_over(together=together):
        return
    tasks = {source.seed: draw(source) for job in cell for source in job.sources}
    first = next(iter(tasks.values()))

    def watch(learner, source, share):
        line.report((learner, data, source.seed), share)

    able = [job for job in cell if job.learner.needs(first) is None]
    alone = study.timed or together or not able
    fits = {} if alone else _fit_together(able, tasks, models, watch)
    for job in cell:
        if progress.is_over(together=together):
            return
        line.set_postfix_str(str(job)[:60])
        lacking = job.learner.needs(first)
        if lacking is not None:
            logging.warning("left out %s: the data lack %s", job, lacking)
            for each in job.lines:
                line.report(each.cell)
            _report_fits(job, line)
            continue
        logging.info("running %s", job)
        drawn = [tasks[source.seed] for source in job.sources]
        fitted = [
            fits[place] for source in job.sources if (place := (job.learner, source.seed)) in fits
        ]
        if not fitted:
            mesh = devices.mesh() if together else None
            fitted = models.fit(job.learner, job.sources, drawn, job.steps, mesh=mesh, watch=watch)
        if together:
            # A process that reads a base before the first one has written it would fit it again.
            distributed.wait(data)
        _report_fits(job, line)
        if together and not distributed.is_first():
            continue
        for row in score(job, drawn, fitted, stored):
            store.put(row)
            line.report(row["cell"])
            if progress.is_over():
                break


def _report_fits(job, line):
    """Reports the fits that a job needs no more."""
    for learner in chain(job.learner):
        for source in job.sources:
            line.report((learner, job.data, source.seed))


def _fit_together(jobs, tasks, models, watch):
    """Fits the learners of jobs on the same data together, a seed on each core, before any codes
    are inferred.

    Codes come after all fits, since encoders are timed with nothing running beside them. Bases come
    first, each once, however many jobs build on them.

    Args:
      jobs: jobs whose learners are fitted.
      tasks: the data by seed.
      models: where to keep fits.
      watch: as for `Models.fit`.

    Returns:
      The fits by learner and seed; missing ones are fitted when their job runs.
    """
    task, workers = next(iter(tasks.values())), at_once()
    if workers == 1 or task.width * max(len(task.train.signals), task.width) * workers > _TOGETHER:
        return {}
    needed = collections.defaultdict(list)
    for job in jobs:
        parts = chain(job.learner)
        if job.learner.ready is None and not any(isinstance(part, HostLearner) for part in parts):
            for learner in parts:
                needed[learner].append(job)

    def depth(learner):
        return len(chain(learner))

    def fit(learner):
        if progress.is_over():
            return {}
        needed_by = needed[learner]
        logging.info("fitting for %s", "; ".join(map(str, needed_by)))
        sources = {source.seed: source for job in needed_by for source in job.sources}
        scored = [job for job in needed_by if job.learner == learner]
        steps = sorted({step for job in scored for step in job.steps})
        drawn = [tasks[seed] for seed in sources]
        fits = models.fit(learner, list(sources.values()), drawn, steps, watch=watch)
        return {(learner, seed): fitted for seed, fitted in zip(sources, fits, strict=True)}

    fits: Any = {}
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


def _in_order(study, found):
    """Sorts rows by their sizes, then by their methods, and by what these vary."""
    names = [method.name for source in study.sources for method in study.methods(source)]

    def place_of(row):
        cell = [(row.get(size) is not None, row.get(size) or 0) for size in results.SIZES]
        varied = (row.get(name) or 0 for name in ("lam", "iterations", "step"))
        return (*cell, names.index(row["method"]), *varied, row["seed"])

    return sorted(found, key=place_of)
