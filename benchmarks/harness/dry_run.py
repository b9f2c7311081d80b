"""What a run would do, and whether it could keep what it would fit: found out before it begins."""

from collections.abc import Sequence

from benchmarks.harness.preset import HEADINGS
from sae_gap.storage import results
from sae_gap.storage.results import CELL
from sae_gap.study.job import Job, jobs
from sae_gap.study.models import Models
from sae_gap.study.study import Study

HOUR = 3_600


def plan(study: Study, present: set[str], models: Models) -> str:
    """What a run would do: each job, the rows that are there, the models that must be fitted, and about how long that takes.

    Where that is more than an hour, a last line names the methods that are left without the dearest ones, and take less.
    """
    every, lines = list(jobs(study)), []
    work = _work(every, present, models)
    for job, (seconds, fits) in zip(every, work, strict=True):
        there = len(present & set(job.keys.values()))
        size = job.sources[0].asdict()
        cell = ", ".join(f"{HEADINGS[name]} {size[name]}" for name in (*CELL, "input_dim"))
        told = f"{fits} to fit, about {_duration(seconds)}" if fits else "nothing to fit"
        lines.append(f"{cell}: {job}: {there}/{len(job.keys)} rows there, {told}")
    total = sum(seconds for seconds, _ in work)
    lines.append(f"{len(lines)} jobs, about {_duration(total)} of fitting on this machine, scoring apart")
    left = every
    while total > HOUR:
        costs: dict[str, float] = {}
        for job, (seconds, _) in zip(left, work, strict=True):
            costs[str(job)] = costs.get(str(job), 0.0) + seconds
        dearest = max(costs, key=lambda name: costs[name])
        left = [job for job in left if str(job) != dearest]
        # What is left may need a fit that the dearest would have been the first to ask for.
        work = _work(left, present, models)
        total = sum(seconds for seconds, _ in work)
    if 0 < len(left) < len(every):
        names = ",".join(dict.fromkeys(method.name for job in left for method in job.methods))
        lines.append(f"about {_duration(total)} with --methods={names}")
    return "\n".join(lines)


def _work(every: Sequence[Job], present: set[str], models: Models) -> list[tuple[float, int]]:
    """Seconds and number of the fits of each job, where one after the other is run."""
    planned: set[tuple[str, int]] = set()
    return [_fits(job.without(present), models, planned) for job in every]


def check_writable(study: Study, store: results.Store, models: Models) -> None:
    """Refuses a run whose rows or fits could not be kept; one that finds all of its models may read them from anywhere."""
    store.folder.require_writable()
    obstacle = None if models.directory is None else models.directory.obstacle()
    if obstacle is not None:
        present = store.keys()
        if any(_fits(job.without(present), models, set())[1] for job in jobs(study)):
            raise ValueError(
                f"models cannot be kept in {models.directory} ({obstacle}); choose another folder with --models_dir."
            )


def _fits(job: Job, models: Models, planned: set[tuple[str, int]]) -> tuple[float, int]:
    """Seconds and number of the fits that a job would be the first to ask for."""
    seconds, count = 0.0, 0
    for source in job.sources:
        for learner in models.missing(job.learner, source, job.steps):
            name = str(models.folder(learner, source)), source.seed
            if name not in planned:
                planned.add(name)
                count += 1
                size = source.asdict()
                seconds += models.estimate(learner, source.num_train, size["input_dim"], size.get("width", size["num_latents"]))
    return seconds, count


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
