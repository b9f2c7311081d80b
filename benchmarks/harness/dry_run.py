"""The plan of a run, and a check that it could keep its fits."""

from collections.abc import Iterator

from benchmarks.harness.command import Run
from benchmarks.harness.preset import HEADINGS
from sae_gap.storage import CELL
from sae_gap.study import Job, Stored, jobs


def plan(run: Run) -> str:
    """A line for each job: how many of its rows exist and how many models it would be the first to
    fit.
    """
    lines, planned = [], 0
    for job, there, fits in _ahead(run):
        size = job.sources[0].asdict()
        cell = ", ".join(f"{HEADINGS[name]} {size[name]}" for name in (*CELL, "input_dim"))
        lines.append(
            f"{cell}: {job}: {there}/{len(job.lines)} rows there, {fits or 'nothing'} to fit"
        )
        planned += fits
    return "\n".join([*lines, f"{len(lines)} jobs, {planned} models to fit"])


def check_writable(run: Run) -> None:
    """Refuses a run that could not keep its rows or fits; a run that finds all of its models may
    read them from anywhere.
    """
    run.store.folder.require_writable()
    folder = run.models.directory
    obstacle = folder and folder.obstacle()
    if obstacle is not None and any(fits for _, _, fits in _ahead(run)):
        raise ValueError(
            f"models cannot be kept in {folder} ({obstacle}); choose another folder with "
            "--models_dir."
        )


def _ahead(run: Run) -> Iterator[tuple[Job, int, int]]:
    """Each job, with the number of its existing rows and the number of models that it would be the
    first to fit, by their folders.
    """
    stored, planned = Stored(run.study, run.store), set[str]()
    for job in jobs(run.study):
        there = sum(stored.lacking(line) is None for line in job.lines)
        fits = {
            str(run.models.folder(learner, source))
            for source in stored.rest(job).sources
            for learner in run.models.missing(job.learner, source, job.steps)
        }
        yield job, there, len(fits - planned)
        planned |= fits
