"""What a run would do, and whether it could keep what it would fit."""

from collections.abc import Sequence

from benchmarks.harness.preset import HEADINGS
from sae_gap.storage import results
from sae_gap.storage.results import CELL
from sae_gap.study.job import Job
from sae_gap.study.models import Models


def plan(jobs: Sequence[Job], store: results.Store, models: Models) -> str:
    """A line for each job, with how many of its rows are there and how many models it would be the
    first to fit.
    """
    present, planned, lines = store.keys(), set[tuple[str, int]](), []
    for job in jobs:
        size = job.sources[0].asdict()
        cell = ", ".join(f"{HEADINGS[name]} {size[name]}" for name in (*CELL, "input_dim"))
        fits = _fits(job.without(present), models) - planned
        planned |= fits
        there = len(present & job.keys)
        lines.append(
            f"{cell}: {job}: {there}/{len(job.keys)} rows there, {len(fits) or 'nothing'} to fit"
        )
    return "\n".join([*lines, f"{len(lines)} jobs, {len(planned)} models to fit"])


def check_writable(jobs: Sequence[Job], store: results.Store, models: Models) -> None:
    """Refuses a run whose rows or fits could not be kept; one that finds all of its models may read
    them from anywhere.
    """
    store.folder.require_writable()
    obstacle = None if models.directory is None else models.directory.obstacle()
    if obstacle is not None:
        present = store.keys()
        if any(_fits(job.without(present), models) for job in jobs):
            raise ValueError(
                f"models cannot be kept in {models.directory} ({obstacle}); choose another folder "
                "with --models_dir."
            )


def _fits(job: Job, models: Models) -> set[tuple[str, int]]:
    """The fits that are missing for what is left of a job, by their folders and seeds."""
    return {
        (str(models.folder(learner, source)), source.seed)
        for source in job.sources
        for learner in models.missing(job.learner, source, job.steps)
    }
