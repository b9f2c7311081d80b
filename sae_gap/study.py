"""A study as data: settings crossed with methods, and the one runner that turns them into rows."""

import dataclasses
import functools
import hashlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from sae_gap import devices, results
from sae_gap.checkpoints import Checkpoint
from sae_gap.data import draw, load
from sae_gap.encoders.base import Encoder, encode
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.base import Fit, Learner, fit
from sae_gap.metrics import METRICS
from sae_gap.metrics.base import SCORED, Inferred, Metric
from sae_gap.types import SPLITS, Model, Setting, Solution, Task, check_seed, check_size

PROTOCOLS = ("strict", "paper")
# Part of every key: raise it when a change to the code changes what a row means, and old rows are no longer taken for new ones.
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Method:
    """Where a dictionary comes from, crossed with how codes are inferred on it."""

    name: str
    family: str
    learner: Learner
    encoder: Encoder

    def __post_init__(self):
        if not isinstance(self.learner, Learner) or not isinstance(self.encoder, Encoder):
            raise ValueError(
                f"method {self.name!r} must have a Learner and an Encoder; subclass those of sae_gap for your own."
            )


@dataclasses.dataclass(frozen=True)
class Recording:
    """A user's file of activations, in the place of a `Setting`.

    Args:
      path: an .npz file, as `load` reads it.
      num_latents: width of the dictionaries to learn; None takes the truth's.
      sparsity: k of the encoders that need one.
      seed: seeds the learners.
    """

    path: pathlib.Path
    num_latents: int | None = None
    sparsity: int = 10
    seed: int = 0

    def __post_init__(self):
        check_size("sparsity", self.sparsity)
        check_seed(self.seed)
        if self.num_latents is not None:
            check_size("num_latents", self.num_latents)

    def task(self) -> Task:
        return dataclasses.replace(self._content()[0], seed=self.seed)

    def _content(self) -> tuple[Task, str]:
        return _read(self.path, self.num_latents, self.path.stat().st_mtime_ns if self.path.is_file() else 0)

    def asdict(self) -> dict[str, Any]:
        """What tells recordings apart: the content of the file, wherever it lies."""
        task, digest = self._content()
        return {
            "data": digest,
            "num_latents": task.num_latents,
            "sparsity": self.sparsity,
            "num_samples": len(task.train.signals) + len(task.id.signals),
            "input_dim": task.input_dim,
            "seed": self.seed,
        }


@functools.lru_cache(maxsize=1)
def _read(path: pathlib.Path, num_latents: int | None, modified: int) -> tuple[Task, str]:
    """The task in a file and a digest of the file, read once for all seeds unless the file changes."""
    task = load(path, num_latents=num_latents)
    with path.open("rb") as file:
        return task, hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Study:
    """Sources of data crossed with methods.

    Args:
      name: names the study's rows.
      sources: settings or recordings; those that differ only in their seed are fitted together.
      methods: the methods for a source, since some take its sparsity.
      lam: weight of the l1 norm in the gap that every method is measured by.
      protocol: "strict" or "paper"; what the methods see and how metrics are fitted.
      metrics: what to measure.
    """

    name: str
    sources: Sequence[Setting | Recording]
    methods: Callable[[Setting | Recording], Sequence[Method]]
    lam: float = 0.1
    protocol: str = "strict"
    metrics: Sequence[Metric] = METRICS

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, but it is {self.protocol!r}.")
        if not 0 <= self.lam < float("inf"):
            raise ValueError(f"lam must be a number of at least 0, but it is {self.lam!r}.")
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError("sources must be different settings or recordings, at least one; some are missing or given twice.")
        for source in self.sources:
            names = [method.name for method in self.methods(source)]
            if len(set(names)) < len(names):
                raise ValueError(f"methods must have different names, but they are {', '.join(names)}.")


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is fitted and written at once: the methods that share a learner, on sources that differ only in their seed."""

    sources: Sequence[Setting | Recording]
    methods: Sequence[Method]
    keys: Mapping[tuple[int, str], str]

    @property
    def name(self) -> str:
        return results.key({"rows": sorted(self.keys.values())})

    def without(self, present: set[str]) -> "_Job":
        """The job of the seeds that lack a row."""
        seeds = {seed for (seed, _), key in self.keys.items() if key not in present}
        keys = {(seed, method): key for (seed, method), key in self.keys.items() if seed in seeds}
        return _Job([source for source in self.sources if source.seed in seeds], self.methods, keys)


def run(study: Study, store: results.Store, shard: tuple[int, int] = (0, 1)) -> list[results.Row]:
    """Runs what the store does not hold yet, and returns the study's rows.

    Each job fits one learner for all seeds and infers with every method that shares it; its rows reach the store together. A
    long fit saves its state in the store's folder, so a killed run loses about a minute of it. A method whose task lacks what
    it needs is left out, with a line in the log.

    Args:
      study: what to run.
      store: where rows are kept.
      shard: `(index, count)`: run only each count-th job, beginning with index; the rest are another process's.

    Returns:
      The rows of the study that are in the store by now, other shards' included, in the order of sources and methods.
    """
    jobs = list(_jobs(study))
    present = store.keys()
    for place, job in enumerate(jobs):
        if place % shard[1] != shard[0] or present.issuperset(job.keys.values()):
            continue
        logging.info("%d/%d: %s", place + 1, len(jobs), ", ".join(method.name for method in job.methods))
        job = job.without(present)
        saves = [_checkpoint(store, job, source) for source in job.sources]
        store.append(_run_job(study, job, saves))
        for save in saves:
            save.discard()
    wanted = {key: None for job in jobs for key in job.keys.values()}
    found = {row["key"]: row for row in store.rows()}
    order = {method.name: place for source in study.sources for place, method in enumerate(study.methods(source))}
    rows = [found[key] for key in wanted if key in found]
    sizes = ("num_latents", "sparsity", "num_samples")
    return sorted(rows, key=lambda row: (*(row[size] for size in sizes), order[row["method"]], row["seed"]))


def _jobs(study: Study) -> Iterator[_Job]:
    groups: dict[str, list[tuple[Setting | Recording, dict[str, Any]]]] = {}
    for source in study.sources:
        description = source.asdict()
        groups.setdefault(results.key(description | {"seed": None}), []).append((source, description))
    for group in groups.values():
        by_learner: dict[str, list[Method]] = {}
        for method in study.methods(group[0][0]):
            by_learner.setdefault(results.key(_describe(method.learner)), []).append(method)
        for methods in by_learner.values():
            keys = {
                (description["seed"], method.name): results.key(_identity(study, description, method))
                for _, description in group
                for method in methods
            }
            yield _Job([source for source, _ in group], methods, keys)


def _checkpoint(store: results.Store, job: _Job, source: Setting | Recording) -> Checkpoint:
    """Where the fit of a seed is saved while it lasts, under a name that tells it from all others."""
    fit = {"learner": _describe(job.methods[0].learner), "source": source.asdict(), "schema": SCHEMA}
    # Side by side, one file holds all seeds.
    fit["seeds"] = [] if jax.default_backend() == "cpu" else [source.seed for source in job.sources]
    code = {name: results.provenance()[name] for name in ("jax", "jaxlib", "equinox", "optax", "revision")}
    name = results.key(fit | code | {"precision": _precision(), "device": devices.describe()})
    return Checkpoint(store.directory / "checkpoints" / f"{name}.npz")


def _identity(study: Study, description: Mapping[str, Any], method: Method) -> dict[str, Any]:
    return {
        "study": study.name,
        "protocol": study.protocol,
        "lam": study.lam,
        "source": description,
        "method": method.name,
        "learner": _describe(method.learner),
        "encoder": _describe(method.encoder),
        "metrics": sorted(_qualified(metric) for metric in study.metrics),
        "precision": _precision(),
        "schema": SCHEMA,
    }


def _precision() -> str:
    return str(jnp.zeros(()).dtype)


def _qualified(thing: Any) -> str:
    module = thing.__module__
    if module == "__main__":
        # What `python -m` runs has the name that an import would give it.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = module if spec is None else spec.name
    return f"{module}.{thing.__qualname__}"


def _describe(thing: Any) -> Any:
    """A learner or an encoder as plain data: its class and its hyper-parameters."""
    if isinstance(thing, eqx.Module):
        fields = {field.name: _describe(getattr(thing, field.name)) for field in dataclasses.fields(thing)}
        return {"class": _qualified(type(thing))} | fields
    return [_describe(part) for part in thing] if isinstance(thing, tuple) else thing


def _run_job(study: Study, job: _Job, saves: Sequence[Checkpoint]) -> list[results.Row]:
    tasks = [devices.place(_task(source), devices.mesh()) for source in job.sources]
    learner = job.methods[0].learner
    lacking = learner.needs(tasks[0])
    if lacking is not None:
        logging.warning("left out %s: the data lack %s", ", ".join(method.name for method in job.methods), lacking)
        return []
    fitted = fit_seeds(learner, tasks, saves)
    provenance = results.provenance() | {"device": devices.describe(), "precision": _precision()}
    rows = []
    for seed, (source, task, model) in enumerate(zip(job.sources, tasks, fitted.models, strict=True)):
        description = source.asdict()
        inference = _Inference(task, model)
        for method in job.methods:
            rows.append(
                {"key": job.keys[description["seed"], method.name], "job": job.name, "study": study.name}
                | {"method": method.name, "family": method.family, "protocol": study.protocol, "lam": study.lam}
                | description
                | _measure(study, method, inference)
                | {"fit_steps": fitted.num_steps[seed], "fit_seconds": fitted.fit_seconds[seed]}
                | {"compile_seconds": fitted.compile_seconds}
                | provenance
            )
    return rows


def _task(source: Setting | Recording) -> Task:
    return draw(source) if isinstance(source, Setting) else source.task()


def fit_seeds(learner: Learner, tasks: Sequence[Task], checkpoints: Sequence[Checkpoint] | None = None) -> Fit:
    """Fits a learner to tasks that differ in their seed, each with the key of its seed and of the learner's name."""
    stream = int(results.key({"learner": type(learner).__name__})[:7], 16)
    return fit(
        learner, tasks, [jax.random.fold_in(jax.random.key(task.seed), stream) for task in tasks], checkpoints=checkpoints
    )


class _Inference:
    """Codes on one model, each encoder run once on a split however many methods and metrics ask."""

    _compiled: ClassVar[set[tuple[Any, ...]]] = set()

    def __init__(self, task: Task, model: Model):
        self.task, self.model = task, model
        self._codes: dict[tuple[str, str], Any] = {}
        self._seconds: dict[str, float] = {}

    def infer(self, encoder: Encoder, split: str) -> Any:
        """What the encoder gives on a split: codes, or a solution from a lasso."""
        name = results.key(_describe(encoder))
        if (name, split) not in self._codes:
            self._codes[name, split] = self._function(encoder)(self.model, getattr(self.task, split).signals)
        return self._codes[name, split]

    def seconds(self, encoder: Encoder) -> float:
        """What the ID split takes, compilation apart."""
        name = results.key(_describe(encoder))
        if name not in self._seconds:
            function = self._function(encoder)
            shape = (name, self.task.id.signals.shape, jnp.shape(self.model.bias), self.task.num_latents)
            if shape not in self._compiled:
                # The first call of a shape compiles; the one that is timed must not be that call.
                jax.block_until_ready(function(self.model, self.task.id.signals))
                self._compiled.add(shape)
            started = time.perf_counter()
            self._codes[name, "id"] = jax.block_until_ready(function(self.model, self.task.id.signals))
            self._seconds[name] = time.perf_counter() - started
        return self._seconds[name]

    @staticmethod
    def _function(encoder: Encoder):
        return encoder.solve if isinstance(encoder, Lasso) else functools.partial(encode, encoder)


def _measure(study: Study, method: Method, inference: _Inference) -> dict[str, Any]:
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(inference.model)):
        logging.warning("%s diverged: its model is not finite, and its metrics are left out", method.name)
        return {"diverged": True}
    seconds = inference.seconds(method.encoder)
    # Without the truth there is nothing to fit a metric to on the training split, which may be too large for codes.
    splits = SPLITS if inference.task.train.codes is not None else SCORED
    outcomes = {split: inference.infer(method.encoder, split) for split in splits}
    codes: dict[str, Any] = {
        split: np.asarray(outcome.codes if isinstance(outcome, Solution) else outcome) for split, outcome in outcomes.items()
    }
    if not all(np.isfinite(code).all() for code in codes.values()):
        logging.warning("%s diverged: its codes are not finite, and its metrics are left out", method.name)
        return {"diverged": True, "encode_seconds": seconds}
    optimum = {}
    if inference.model.dictionary is not None:
        # Signed codes can beat the best non-negative ones, so they are held against the best signed ones.
        reference = Lasso(study.lam, nonneg=not method.encoder.signed)
        optimum = {split: inference.infer(reference, split) for split in SCORED}
    inferred = Inferred(inference.task, inference.model, codes, optimum, study.lam, study.protocol)
    measured: dict[str, Any] = {}
    for metric in study.metrics:
        measured |= metric(inferred)
    for name, solution in outcomes.items():
        if isinstance(solution, Solution) and name in SCORED:
            measured[f"own_certificate_{name}"] = float(np.max(solution.gap / np.maximum(solution.objective, 1e-30)))
    for name, solution in optimum.items():
        if not np.all(solution.converged):
            count = int(np.sum(~solution.converged))
            logging.warning("%s: %d optima on %s missed their tolerance; see its certificate", method.name, count, name)
    signs = {"reference": "signed" if method.encoder.signed else "non-negative"} if optimum else {}
    return measured | signs | {"encode_seconds": seconds}
