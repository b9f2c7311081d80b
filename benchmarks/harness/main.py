"""Runs the binary of a study: reads the options, runs or plans, and writes the outcome."""

import time
from collections.abc import Iterator

from absl import logging

from benchmarks import cli
from benchmarks.harness.bench import Bench
from benchmarks.harness.command import Run, StudyOptions, options_of, read
from benchmarks.harness.preset import HEADINGS
from sae_gap.runtime import devices, distributed
from sae_gap.storage import CELL
from sae_gap.study import Job, Stored, jobs, runner


def run(bench: Bench) -> None:
    """Runs the binary."""

    def main(options: StudyOptions) -> None:
        execute(read(bench, options))

    cli.run(main, options=options_of(bench), about=bench.about)


def execute(run: Run) -> None:
    """Runs a study and prints its tables and its answer; or prints the plan of a dry run."""
    began = time.perf_counter()
    if run.options.dry_run:
        if distributed.is_first():
            print(plan(run))
        return
    check_writable(run)
    devices.compilations()
    rows = runner.run(run.study, run.store, run.shard, models=run.models)
    logging.info("%d rows in %s", len(rows), run.store.folder)
    if not rows and run.shard is None:
        names = ", ".join(run.names)
        raise ValueError(
            f"none of {names} can run on these data; choose others or add the truth that they need."
        )
    if rows and distributed.is_first():
        notes = {
            "seconds": f"{time.perf_counter() - began:.0f}",
            "peak memory": f"{devices.peak_memory():.1f} GiB",
            "compilations": str(devices.compilations()),
            "models": str(run.models.directory),
        }
        # Imported here: pages take a tenth of a second to load, which --help need not wait for.
        from benchmarks.harness.outcome import write_outcome

        printed = write_outcome(run, rows, notes)
        logging.info("%s", ", ".join(f"{name}: {value}" for name, value in notes.items()))
        print(printed)


def plan(run: Run) -> str:
    """A line for each job: how many of its rows exist and how many models it would be the first to
    fit.
    """
    lines, planned, stored = [], 0, Stored(run.study, run.store)
    for job, fits in _ahead(run):
        size = job.sources[0].asdict()
        cell = ", ".join(f"{HEADINGS[name]} {size[name]}" for name in (*CELL, "input_dim"))
        there = sum(stored.lacking(line) is None for line in job.lines)
        said = f"{there}/{len(job.lines)} rows there, {fits or 'nothing'} to fit"
        lines.append(f"{cell}: {job}: {said}")
        planned += fits
    return "\n".join([*lines, f"{len(lines)} jobs, {planned} models to fit"])


def check_writable(run: Run) -> None:
    """Refuses a run that could not keep its rows or fits; a run that finds all of its models may
    read them from anywhere.
    """
    run.store.folder.require_writable()
    folder = run.models.directory
    obstacle = folder and folder.obstacle()
    if obstacle is not None and any(fits for _, fits in _ahead(run)):
        raise ValueError(
            f"models cannot be kept in {folder} ({obstacle}); choose another folder with "
            "--models_dir."
        )


def _ahead(run: Run) -> Iterator[tuple[Job, int]]:
    """Each job, with the number of models that it would be the first to fit, by their folders."""
    stored, planned = Stored(run.study, run.store), set[str]()
    for job in jobs(run.study):
        fits = {
            str(run.models.folder(learner, source))
            for source in stored.rest(job).sources
            for learner in run.models.missing(job.learner, source, job.steps)
        }
        yield job, len(fits - planned)
        planned |= fits
