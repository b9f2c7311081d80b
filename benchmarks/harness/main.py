"""Runs the binary of a study: reads the options, runs, and writes the outcome."""

import functools
import time

from absl import logging

from benchmarks import cli
from benchmarks.harness.bench import Bench
from benchmarks.harness.command import Run, StudyOptions, options_of, read
from benchmarks.harness.dry_run import check_writable, plan
from sae_gap.runtime import devices, distributed
from sae_gap.study import runner


def run(bench: Bench) -> None:
    """Runs the binary."""
    cli.run(functools.partial(main, bench), options=options_of(bench), about=bench.about)


def main(bench: Bench, options: StudyOptions) -> None:
    execute(read(bench, options))


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
