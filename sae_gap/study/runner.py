"""The one runner: what a study still lacks is fitted or read, then inferred, scored and stored, job by job."""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from absl import logging
from scipy.sparse import issparse
from tqdm import tqdm

from sae_gap.core import identity
from sae_gap.core.checks import check_shard, check_type
from sae_gap.core.codes import Codes
from sae_gap.core.types import SPLITS, Solution, Task
from sae_gap.data.recording import Source, task_of
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.learner import Learner
from sae_gap.metrics.metric import SCORED, Inferred
from sae_gap.runtime import devices, distributed, progress
from sae_gap.storage import results
from sae_gap.study import fitting
from sae_gap.study.fitting import Fit
from sae_gap.study.inference import Inference, name_of
from sae_gap.study.models import Models
from sae_gap.study.study import Method, Study

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
    store: results.Store,
    shard: tuple[int, int] | None = None,
    *,
    models: Models | None = None,
    show_progress: bool = True,
) -> list[results.Row]:
    """Runs what the store does not hold yet, and returns the study's rows.

    Each job fits one learner for all seeds, or reads its models where they are, and infers with every method that shares it;
    its rows are stored together. A method whose task lacks what it needs is left out, with a line in the log. On a CPU the
    learners of all jobs on the same data are fitted first, a seed on each core, unless the study asks for their seconds.

    Of many processes, which `distributed.start` has joined, each runs its share of the jobs on its own devices; they share the
    folders of the store and of the models.

    Args:
      study: what to run.
      store: where rows are kept.
      shard: `(index, count)`: run only each count-th job, beginning with index; the rest are another run's. None takes the
        index of this process and the count of all.
      models: where fitted models are kept; None keeps them in the store's folder.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      The rows of the study that are in the store by now, other shards' included, in the order of sources and methods.

    Raises:
      ValueError: the shard is not one of its count, or the store holds rows of another study or another form.
    """
    check_type("study", study, Study, "give sae_gap.Study(name, sources, methods)")
    check_type("store", store, results.Store, "give sae_gap.Store(directory)")
    check_type("models", models, (Models, type(None)), "give sae_gap.Models(directory)")
    index, count = (distributed.index(), distributed.count()) if shard is None else check_shard(shard)
    models = Models(store.folder / "models") if models is None else models
    every = list(jobs(study))
    present = _keys_of(study, store)
    mine = every[index::count]
    lacking = [job.without(present) for job in mine if not present.issuperset(job.keys.values())]
    # A job counts once when its learner is fitted and once when it is scored.
    with progress.bar(2 * len(mine), study.name, unit="job", shown=show_progress) as line:
        line.update(2 * (len(mine) - len(lacking)))
        for _, cell in itertools.groupby(lacking, lambda job: job.sources[0].asdict() | {"seed": None}):
            together = list(cell)
            tasks = {source.seed: task_of(source) for job in together for source in job.sources}
            watches = {job.name: _Watch(job, line) for job in together}
            fits = _fit_together(study, together, tasks, models, watches)
            for job in together:
                line.set_postfix_str(str(job)[:60])
                if line.disable:
                    logging.info("%d of %d jobs lacking: %s", lacking.index(job) + 1, len(lacking), job)
                own = [tasks[source.seed] for source in job.sources]
                need = job.learner.needs(own[0])
                if need is not None:
                    logging.warning("left out %s: the data lack %s", job, need)
                    watches[job.name].end()
                    continue
                found = fits.pop(job.name, None)
                if found is None:
                    found = models.fit(job.learner, job.sources, own, job.steps, watch=watches[job.name].or_none)
                store.append(_score(study, job, own, found))
                watches[job.name].end()
    distributed.wait(study.name)
    return _in_order(study, every, store.rows())


def jobs(study: Study) -> Iterator[Job]:
    """The jobs of a study, in the order in which they run."""
    groups: dict[str, list[tuple[Source, dict[str, Any]]]] = {}
    for source in study.sources:
        description = source.asdict()
        groups.setdefault(results.key(description | {"seed": None}), []).append((source, description))
    for group in groups.values():
        by_learner: dict[str, list[Method]] = {}
        for method in study.methods(group[0][0]):
            by_learner.setdefault(_name(method.learner), []).append(method)
        for methods in by_learner.values():
            keys: dict[_Name, str] = {}
            for (_, description), (place, method) in itertools.product(group, enumerate(methods)):
                described = _identity(study, description, method)
                for step in method.steps:
                    keys[description["seed"], place, step] = results.key(described | {"step": step})
            yield Job([source for source, _ in group], methods, keys)


def _name(learner: Learner) -> str:
    return results.key({"learner": identity.describe(learner)})


def _identity(study: Study, description: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """All that decides a row, as plain data."""
    return {
        "study": study.name,
        "protocol": study.protocol,
        "lam": reference_of(study, method).lam,
        "source": description,
        "method": method.name,
        "learner": identity.describe(method.learner),
        "encoder": identity.describe(method.encoder),
        "row": dict(method.row),
        "metrics": sorted([metric.name, metric.version] for metric in study.metrics),
        "precision": identity.precision(),
        "numerics": identity.NUMERICS,
    }


def _keys_of(study: Study, store: results.Store) -> set[str]:
    """The keys of the rows that are there, all of which must be this study's."""
    rows = store.rows()
    for row in rows:
        if row.get("study") != study.name:
            raise ValueError(
                f"{store.folder} holds rows of the study {row.get('study')!r}, where {study.name!r} is to go; move that folder "
                "away or choose another."
            )
    return {row["key"] for row in rows}


def _in_order(study: Study, every: Sequence[Job], rows: Sequence[results.Row]) -> list[results.Row]:
    wanted = {key for job in every for key in job.keys.values()}
    names = [method.name for source in study.sources for method in study.methods(source)]
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}

    def place_of(row: results.Row) -> tuple[Any, ...]:
        cell = [(row.get(size) is not None, row.get(size) or 0) for size in results.SIZES]
        return (*cell, order[row["method"]], row["lam"], row.get("iterations", 0), row.get("step", 0), row["seed"])

    return sorted((row for row in rows if row["key"] in wanted), key=place_of)


def _fit_together(
    study: Study, jobs: Sequence[Job], tasks: Mapping[int, Task], models: Models, watches: Mapping[str, "_Watch"]
) -> dict[str, list[Fit]]:
    """Fits the learners of jobs on the same data together, a seed on each core, before any codes are inferred.

    Codes come after all fits because the seconds of encoders are measured with nothing beside them. Bases come first, each
    once, whichever jobs go on from them.

    Returns:
      The fits of each job by its name; those that are not there are made when the turn of the job comes.
    """
    task, workers = next(iter(tasks.values())), fitting.at_once()
    num_train, width = len(task.train.signals), task.width
    if study.timed or workers == 1 or width * max(num_train, width) * workers > _TOGETHER:
        return {}
    waiting = [job for job in jobs if not any(one.on_host for one in _chain(job.learner)) and job.learner.needs(task) is None]
    bases: dict[str, tuple[Learner, dict[int, Source]]] = {}
    for job in waiting:
        for base in _chain(job.learner)[1:]:
            bases.setdefault(_name(base), (base, {}))[1].update({source.seed: source for source in job.sources})
    own = {_name(job.learner) for job in waiting}
    todo: list[tuple[Learner, list[Source], Job | None]] = [(job.learner, list(job.sources), job) for job in waiting]
    todo += [(base, list(sources.values()), None) for name, (base, sources) in bases.items() if name not in own]

    def fit(learner: Learner, sources: Sequence[Source], job: Job | None) -> list[Fit]:
        drawn = [tasks[source.seed] for source in sources]
        watch = None if job is None else watches[job.name].or_none
        return models.fit(learner, sources, drawn, () if job is None else job.steps, watch=watch)

    found: dict[str, list[Fit]] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Thread-local JAX configuration is not inherited.
        if len(todo) < 2 or pool.submit(_options).result() != _options():
            return {}
        depths = sorted({len(_chain(learner)) for learner, _, _ in todo})
        try:
            for depth in depths:
                level = [one for one in todo if len(_chain(one[0])) == depth]
                level.sort(key=lambda one: one[0].work(num_train, task.input_dim, width), reverse=True)
                begun = [(one[2], pool.submit(fit, *one)) for one in level]
                found |= {job.name: future.result() for job, future in begun if job is not None}
                for _, future in begun:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _chain(learner: Learner) -> list[Learner]:
    """A learner, its base, the base of that, and so on."""
    return [learner] if learner.base is None else [learner, *_chain(learner.base)]


def _options() -> dict[str, Any]:
    """What is set of JAX in the thread that asks."""
    return dict(jax.config.values)


class _Watch:
    """Tells a line of progress how far a job is, which counts 1 when its fits are done and 1 when it is scored."""

    def __init__(self, job: Job, line: tqdm):
        self._job, self._line, self._shares = job, line, dict[int, float]()

    @property
    def or_none(self) -> "_Watch | None":
        """None where nobody looks, so that fits need not stop to tell."""
        return None if self._line.disable else self

    def __call__(self, learner: Learner, place: int, steps: int) -> None:
        # Of bases nothing is told, which several jobs may share.
        if learner is self._job.learner:
            share = steps / learner.num_steps
            self._line.update((share - self._shares.get(place, 0.0)) / len(self._job.sources))
            self._shares[place] = share

    def end(self) -> None:
        """The job is scored."""
        self._line.update(2 - sum(self._shares.values()) / len(self._job.sources))


def _score(study: Study, job: Job, tasks: Sequence[Task], outcomes: Sequence[Fit]) -> list[results.Row]:
    """The rows of a job whose learner is fitted."""
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
                    {"key": job.keys[description["seed"], place, step], "job": job.name, "study": study.name}
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
    for metric in study.metrics:
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
