"""The runner of studies: fits or reads what a study lacks, then infers, scores and stores it row by
row.
"""

import collections
import concurrent.futures
import itertools
from typing import Any

import jax
from absl import logging

from sae_gap.core import check_shard, check_type
from sae_gap.data import draw
from sae_gap.learners import HostLearner, Learner
from sae_gap.runtime import devices, distributed, progress
from sae_gap.storage import results
from sae_gap.study import Models, Stored, Study, at_once, jobs, score

# Fit learners together only if the codes, or squares of the width, of all that run at once have at
# most so many numbers.
_TOGETHER = 2**25


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
        (distributed.index(), distributed.count())
        if shard is None
        else check_shard(shard)
    )
    models = Models(store.folder / "models") if models is None else models
    every = list(jobs(study))
    stored = Stored(study, store)
    mine = every if study.spread == "rows" else every[index::count]
    lacking = [job for job in map(stored.rest, mine) if job.lines]
    rows = [row.cell for job in lacking for row in job.lines]
    fits = [
        (learner, job.data, source.seed)
        for job in lacking
        for source in job.sources
        for learner in models.missing(job.learner, source, job.steps)
    ]
    done = sum(len(job.lines) for job in mine) - len(rows)
    with progress.line(
        what=study.name, unit="fits and rows", shown=show_progress
    ) as line:
        line.begin(fits, rows, done)
        for _, cell in itertools.groupby(lacking, lambda job: job.data):
            _run_cell(list(cell), store, stored, models, line)
    # This waits for all processes. Only the first one scores rows that all share.
    left = [row for row in rows if line.shares[row] < 1] if progress.is_over() else []
    lefts = distributed.gather(left)
    left = lefts[0] if study.spread == "rows" else [*itertools.chain(*lefts)]
    found = Stored(study, store).rows(every)
    found = found if study.lam is None else _in_order(study, found)
    if left:
        size = (
            f"{line.total - line.n:.0f} of {line.total} fits and rows of {study.name}"
        )
        text = f"{size} are left, since the minutes are over; the same command goes on."
        lines = [row for job in every for row in job.lines if row.cell in left]
        raise progress.UnfinishedError(
            text, found, {row.columns["dictionary"] for row in lines}
        )
    return found


def _run_cell(cell, store, stored, models, line):
    """Fits, scores and stores the jobs of a study on data that differ only in their seed."""
    study = cell[0].study
    data = cell[0].data
    together = study.spread == "rows"
    tasks = {source.seed: draw(source) for job in cell for source in job.sources}
    first = next(iter(tasks.values()))

    def watch(learner, source, share):
        line.report((learner, data, source.seed), share)

    able = [job for job in cell if job.learner.needs(first) is None]
    alone = study.timed or together or not able
    fits = {} if alone else _fit_together(able, tasks, models, watch)
    for job in cell:
        over = progress.is_over()
        # Processes that fit together stop together.
        if distributed.from_first(over) if together else over:
            return
        line.set_postfix_str(str(job)[:60])
        lacking = job.learner.needs(first)
        if lacking is not None:
            logging.warning("left out %s: the data lack %s", job, lacking)
            for row in job.lines:
                line.report(row.cell)
            continue
        logging.info("running %s", job)
        drawn = [tasks[source.seed] for source in job.sources]
        fitted = [
            fits[place]
            for source in job.sources
            if (place := (job.learner, source.seed)) in fits
        ]
        if not fitted:
            mesh = devices.mesh() if together else None
            fitted = models.fit(
                job.learner, job.sources, drawn, job.steps, mesh=mesh, watch=watch
            )
        if together:
            # A process that reads a base before the first one has written it would fit it again.
            distributed.wait(data)
        if not together or distributed.is_first():
            for row in score(job, drawn, fitted, stored):
                store.put(row)
                line.report(row["cell"])
                if progress.is_over():
                    break


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
    task = next(iter(tasks.values()))
    workers = at_once()
    if (
        workers == 1
        or task.width * max(len(task.train.signals), task.width) * workers > _TOGETHER
    ):
        return {}
    needed = collections.defaultdict(list)
    for job in jobs:
        parts = chain(job.learner)
        if job.learner.ready is None and not any(
            isinstance(part, HostLearner) for part in parts
        ):
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
        return {
            (learner, seed): fitted for seed, fitted in zip(sources, fits, strict=True)
        }

    fits: Any = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Threads do not inherit thread-local JAX configuration.
        if pool.submit(lambda: dict(jax.config.values)).result() != dict(
            jax.config.values
        ):
            return {}
        # The longest first, so that no long fit starts last and runs alone.
        ordered = sorted(
            needed, key=lambda learner: (depth(learner), -learner.num_steps)
        )
        for _, level in itertools.groupby(ordered, depth):
            for fitted in pool.map(fit, level):
                fits |= fitted
    return fits


def chain(learner: Learner) -> list[Learner]:
    """The learner after all its bases, the innermost first."""
    return [learner] if learner.base is None else [*chain(learner.base), learner]


def _in_order(study, found):
    """Sorts rows by their sizes, then by their methods, and by what these vary."""
    names = [
        method.name for source in study.sources for method in study.methods(source)
    ]

    def place_of(row):
        cell = [
            (row.get(size) is not None, row.get(size) or 0) for size in results.SIZES
        ]
        varied = (row.get(name) or 0 for name in ("lam", "iterations", "step"))
        return (*cell, names.index(row["method"]), *varied, row["seed"])

    return sorted(found, key=place_of)
