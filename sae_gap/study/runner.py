"""The one runner: what a study still lacks is fitted or read, then inferred, scored and appended, job by job."""

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from absl import logging
from scipy.sparse import issparse

from sae_gap.core import identity
from sae_gap.core.checks import check_shard, check_type
from sae_gap.core.codes import Codes
from sae_gap.core.types import SPLITS, Solution, Task
from sae_gap.data.recording import Source, task_of
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.learner import Learner
from sae_gap.metrics.metric import SCORED, Inferred
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results
from sae_gap.study import fitting
from sae_gap.study.fitting import Fit
from sae_gap.study.inference import Inference, name_of
from sae_gap.study.models import Models
from sae_gap.study.progress import Progress
from sae_gap.study.study import Method, Study

# Part of every key and of every row: raise it when a change to the code changes what a row means.
SCHEMA = 2
# The name of a row within a study: its seed, its method with what that varies, and the step of the fit.
_Name = tuple[int, int, int | None]
# Learners are fitted together where all that run at once have codes, or squares of the width, of no more numbers than this.
_TOGETHER = 2**25


@dataclasses.dataclass(frozen=True)
class Job:
    """What is written at once: the methods that share a learner, on sources that differ only in their seed.

    Attributes:
      sources: one for each seed.
      methods: those that share the learner.
      keys: of the rows, by seed, number of the method and step.
    """

    sources: Sequence[Source]
    methods: Sequence[Method]
    keys: Mapping[_Name, str]

    @property
    def name(self) -> str:
        """A hash of its rows, the same in every process."""
        return results.key({"rows": sorted(self.keys.values())})

    @property
    def learner(self) -> Learner:
        """The learner that its methods share."""
        return self.methods[0].learner

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps before the end that its methods are scored at."""
        return tuple(sorted({step for method in self.methods for step in method.at}))

    def without(self, present: set[str]) -> "Job":
        """The job of the seeds that lack a row."""
        seeds = {name[0] for name, key in self.keys.items() if key not in present}
        keys = {name: key for name, key in self.keys.items() if name[0] in seeds}
        return Job([source for source in self.sources if source.seed in seeds], self.methods, keys)

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(method.name for method in self.methods))


def run(
    study: Study,
    store: results.Store | None,
    shard: tuple[int, int] | None = None,
    *,
    models: Models | None = None,
    progress: Progress | None = None,
) -> list[results.Row]:
    """Runs what the store does not hold yet, and returns the study's rows.

    Each job fits one learner for all seeds, or reads its models where they are, and infers with every method that shares it;
    its rows reach the store together. A method whose task lacks what it needs is left out, with a line in the log. On a CPU the
    learners of all jobs on the same data are fitted first, a seed on each core, unless the study asks for their seconds.

    In many processes, which `distributed.start` has joined, all call this alike: they fit on the devices of all, each codes its
    share of the samples, and the first one keeps rows and models.

    Args:
      study: what to run.
      store: where rows are kept. Only that of the first process is looked at, and others may have None.
      shard: `(index, count)`: run only each count-th job, beginning with index; the rest are another run's. None takes
        the store's.
      models: where fitted models are kept; None keeps them in the store's folder.
      progress: where to say how far the run is; None says nothing.

    Returns:
      The rows of the study that are in the store by now, other shards' included, in the order of sources and methods.

    Raises:
      ValueError: the shard is not one of its count, or the store holds rows of another study or another form.
    """
    check_type("study", study, Study, "give sae_gap.Study(name, sources, methods)")
    check_type("store", store, (results.Store, type(None)), "give sae_gap.Store(directory)")
    check_type("models", models, (Models, type(None)), "give sae_gap.Models(directory)")
    check_type("progress", progress, (Progress, type(None)), "give sae_gap.study.progress.Progress()")
    index, count = distributed.agree(lambda: results.held(store).shard) if shard is None else check_shard(shard)
    models = distributed.agree(lambda: Models(results.held(store).directory / "models")) if models is None else models
    progress = Progress() if progress is None else progress
    every = list(jobs(study))

    def look() -> set[str]:
        _check(study, results.held(store))
        return results.held(store).keys()

    present = distributed.agree(look)
    mine = [job for place, job in enumerate(every) if place % count == index]
    progress.begin(len(mine), sum(present.issuperset(job.keys.values()) for job in mine))
    lacking = [(place, job.without(present)) for place, job in enumerate(mine) if not present.issuperset(job.keys.values())]
    try:
        for _, cell in itertools.groupby(lacking, lambda placed: placed[1].sources[0].asdict() | {"seed": None}):
            placed = list(cell)
            fits = _fit_ahead(study, [job for _, job in placed], models, progress)
            for place, job in placed:
                progress.start(place + 1, str(job))
                rows = _run_job(study, job, models, progress, fits.pop(job.name, None))
                distributed.on_first(functools.partial(_keep, store, rows))
    finally:
        progress.end()
    wanted = {key: None for job in every for key in job.keys.values()}
    found = {row["key"]: row for row in distributed.agree(lambda: results.held(store).rows())}
    names = [method.name for source in study.sources for method in study.methods(source)]
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}

    def place_of(row: results.Row) -> tuple[Any, ...]:
        cell = [(row.get(size) is not None, row.get(size) or 0) for size in results.SIZES]
        return (*cell, order[row["method"]], row["lam"], row.get("iterations", 0), row.get("step", 0), row["seed"])

    return sorted((found[key] for key in wanted if key in found), key=place_of)


def jobs(study: Study) -> Iterator[Job]:
    """The jobs of a study, in the order in which they run."""
    groups: dict[str, list[tuple[Source, dict[str, Any]]]] = {}
    for source in study.sources:
        description = source.asdict()
        groups.setdefault(results.key(description | {"seed": None}), []).append((source, description))
    for group in groups.values():
        by_learner: dict[str, list[Method]] = {}
        for method in study.methods(group[0][0]):
            by_learner.setdefault(results.key({"learner": identity.describe(method.learner)}), []).append(method)
        for methods in by_learner.values():
            keys: dict[_Name, str] = {}
            for (_, description), (place, method) in itertools.product(group, enumerate(methods)):
                described = _identity(study, description, method)
                for step in method.steps:
                    keys[description["seed"], place, step] = results.key(described | {"step": step})
            yield Job([source for source, _ in group], methods, keys)


def _identity(study: Study, description: Mapping[str, Any], method: Method) -> dict[str, Any]:
    return {
        "study": study.name,
        "protocol": study.protocol,
        "lam": reference_of(study, method).lam,
        "source": description,
        "method": method.name,
        "learner": identity.describe(method.learner),
        "encoder": identity.describe(method.encoder),
        "code": [identity.code(method.learner), identity.code(method.encoder)],
        "row": dict(method.row),
        "metrics": sorted(identity.qualified(metric) for metric in study.metrics),
        "precision": identity.precision(),
        "schema": SCHEMA,
    }


def _keep(store: results.Store | None, rows: Sequence[results.Row]) -> None:
    results.held(store).append(rows)


def _check(study: Study, store: results.Store) -> None:
    for row in store.rows():
        if row.get("schema") != SCHEMA or row.get("study") != study.name:
            raise ValueError(
                f"{store.directory} holds rows of the study {row.get('study')!r} in form {row.get('schema')!r}, where "
                f"{study.name!r} in form {SCHEMA} is to go; move that folder away or choose another."
            )


def _fit_ahead(study: Study, jobs: Sequence[Job], models: Models, progress: Progress) -> dict[str, list[Fit]]:
    """Fits the learners of jobs on the same data together, a seed on each core, before any codes are inferred.

    Codes come after all fits because the seconds of encoders are measured with nothing beside them.

    Returns:
      The fits of each job by its name; those that are not there are made when the turn of the job comes.
    """
    num_train, size = jobs[0].sources[0].num_train, jobs[0].sources[0].asdict()
    width, workers = size["num_latents"], fitting.at_once()
    if study.timed or workers == 1 or width * max(num_train, width) * workers > _TOGETHER:
        return {}
    tasks = {source.seed: task_of(source) for job in jobs for source in job.sources}
    waiting = [job for job in jobs if _goes_ahead(job, models, tasks)]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # What one has set for its own thread, such as a precision within a context, others would not have.
        if len(waiting) < 2 or pool.submit(_options).result() != _options():
            return {}
        missing = {job.name: [source for source in job.sources if _is_missing(job, source, models)] for job in waiting}
        progress.ahead([str(job) for job in waiting], sum(map(len, missing.values())))

        def watch(job: Job) -> Callable[[Learner, int, int], None]:
            def watched(learner: Learner, place: int, steps: int) -> None:
                # Of bases nothing is told, which several may share.
                if learner is job.learner:
                    progress.fit(str(job), job.sources[place].seed, steps / learner.num_steps)

            return watched

        def fit(job: Job) -> list[Fit] | None:
            drawn, told = [tasks[source.seed] for source in job.sources], watch(job) if progress.watching else None
            try:
                found = models.fit(job.learner, job.sources, drawn, job.steps, watch=told)
            except Exception as error:
                logging.warning("%s could not be fitted beside others and is fitted again in its turn: %s", job, error)
                return None
            for source in missing[job.name]:
                progress.fit(str(job), source.seed, 1.0)
            progress.fitted(str(job))
            return found

        def seconds(job: Job) -> float:
            return models.estimate(job.learner, num_train, size["input_dim"], width)

        found: dict[str, list[Fit] | None] = {}
        waiting.sort(key=seconds, reverse=True)
        try:
            while waiting:
                # Whose base is another's learner waits for that one, which is asked for other steps as well.
                now = [job for job in waiting if not any(job is not other and _rests_on(job, other) for other in waiting)]
                begun = {job.name: pool.submit(fit, job) for job in now}
                found |= {name: future.result() for name, future in begun.items()}
                waiting = [job for job in waiting if job.name not in begun]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: fits for name, fits in found.items() if fits is not None}


def _bases(learner: Learner) -> Iterator[Learner]:
    while learner.base is not None:
        learner = learner.base
        yield learner


def _rests_on(job: Job, other: Job) -> bool:
    learner = identity.describe(other.learner)
    return any(identity.describe(base) == learner for base in _bases(job.learner))


def _options() -> dict[str, Any]:
    """What is set of JAX in the thread that asks."""
    return dict(jax.config.values)


def _goes_ahead(job: Job, models: Models, tasks: Mapping[int, Task]) -> bool:
    """Whether a job has fits to make, that its data allow and that run outside of Python."""
    if any(learner.on_host for learner in (job.learner, *_bases(job.learner))):
        return False
    try:
        lacks = job.learner.needs(tasks[job.sources[0].seed]) is not None
    except Exception:
        # It is raised again in its turn, when the rows of those before it are there.
        return False
    return not lacks and any(_is_missing(job, source, models) for source in job.sources)


def _is_missing(job: Job, source: Source, models: Models) -> bool:
    return bool(models.missing(job.learner, source, job.steps))


def _run_job(
    study: Study, job: Job, models: Models, progress: Progress, outcomes: Sequence[Fit] | None = None
) -> list[results.Row]:
    """The rows of a job, whose fits are there already or are made here."""
    tasks = [task_of(source) for source in job.sources]
    lacking = job.learner.needs(tasks[0])
    if lacking is not None:
        logging.warning("left out %s: the data lack %s", job, lacking)
        return []

    def watch(learner: Learner, place: int, steps: int) -> None:
        progress.fit(learner.name, job.sources[place].seed, steps / learner.num_steps)

    watching = distributed.same(progress.watching)
    if outcomes is None:
        outcomes = models.fit(job.learner, job.sources, tasks, job.steps, watch=watch if watching else None)
    provenance = results.provenance() | {"device": devices.describe(), "precision": identity.precision()}
    rows = []
    for source, task, outcome in zip(job.sources, tasks, outcomes, strict=True):
        description = source.asdict()
        # Steps at and beyond the end of a fit that stopped by itself have one model, on which nothing is inferred twice.
        by_model: dict[int, list[tuple[int, int | None]]] = {}
        for place, method in enumerate(job.methods):
            for step in method.steps:
                by_model.setdefault(outcome.at(step).step, []).append((place, step))
        for wanted in by_model.values():
            fitted = outcome.at(wanted[0][1])
            inference, shared = Inference(task, fitted.model), dict[Any, Any]()
            shown = [job.methods[place] for place, _ in wanted]
            # Codes that others are held against, or start from, are kept until the last of them.
            origins = {name_of(method.encoder.origin) for method in shown if method.encoder.origin is not None}
            kept = origins | {name_of(reference_of(study, method)) for method in shown}
            for place, step in wanted:
                method = job.methods[place]
                rows.append(
                    {"key": job.keys[description["seed"], place, step], "job": job.name, "schema": SCHEMA, "study": study.name}
                    | {"method": method.name, "family": method.family}
                    | method.coordinates
                    | ({} if step is None else {"step": step})
                    | {"protocol": study.protocol, "lam": reference_of(study, method).lam}
                    | description
                    | _measure(study, method, inference, shared)
                    | {"fit_steps": fitted.step, "fit_seconds": fitted.seconds, "compile_seconds": outcome.compile_seconds}
                    | {"learner": identity.describe(method.learner), "encoder": identity.describe(method.encoder)}
                    | {"fit_device": outcome.device}
                    | provenance
                )
                inference.forget(kept)
                progress.scored()
    return rows


def reference_of(study: Study, method: Method) -> Lasso:
    """What a method's codes are held against: the optimum at the weight that they minimise at, or else at the study's.

    Signed codes can beat the best non-negative ones, so they are held against the best signed ones.
    """
    weight = method.encoder.weight
    return Lasso(study.lam if weight is None else weight, nonneg=not method.encoder.signed)


def _held_codes(codes: Any) -> Any:
    return codes if isinstance(codes, Codes) or issparse(codes) else np.asarray(codes)


def _measure(study: Study, method: Method, inference: Inference, shared: dict[Any, Any]) -> dict[str, Any]:
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(inference.model)):
        logging.warning("%s diverged: its model is not finite, and its metrics are left out", method.name)
        return {"diverged": True}
    # Without the truth there is nothing to fit a metric to on the training split, which may be too large for codes.
    splits = SPLITS if inference.task.train.codes is not None else SCORED
    inferred = {split: inference.infer(method.encoder, split) for split in splits}
    seconds = inference.seconds(method.encoder)
    codes: dict[str, Any] = {split: _held_codes(coded.codes) for split, coded in inferred.items()}
    if not all(np.isfinite(leaf.data if issparse(leaf) else leaf).all() for leaf in jax.tree.leaves(codes)):
        logging.warning("%s diverged: its codes are not finite, and its metrics are left out", method.name)
        return {"diverged": True, "encode_seconds": seconds}
    reference = reference_of(study, method)
    optimum: dict[str, Solution] = {}
    for split in SCORED if inference.model.dictionary is not None and study.optimum else ():
        optimum[split] = cast(Solution, inference.infer(reference, split).certified)
    scored = Inferred(inference.task, inference.model, codes, optimum, reference.lam, study.protocol, shared)
    measured: dict[str, Any] = {}
    # The others have no use for rows, and wait where they are needed next.
    for metric in study.metrics if distributed.is_first() else ():
        measured |= metric(scored)
    for split in SCORED:
        own = inferred[split].certified
        if own is not None:
            measured[f"own_certificate_{split}"] = float(np.max(own.gap / np.maximum(own.objective, 1e-30)))
    for name, solution in optimum.items():
        if not np.all(solution.converged):
            missed = int(np.sum(~solution.converged))
            logging.warning("%s: %d optima on %s missed their tolerance; see its certificate", method.name, missed, name)
    signs = {"reference": "signed" if method.encoder.signed else "non-negative"} if optimum else {}
    return measured | signs | {"encode_seconds": seconds}


__all__ = ["SCHEMA", "Job", "jobs", "reference_of", "run"]
