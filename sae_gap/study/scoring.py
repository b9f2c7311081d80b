"""The rows of a job: its methods infer on the fitted models, and metrics score the codes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jax import device_get
from jax.tree_util import tree_leaves
from scipy.sparse import issparse

from sae_gap.core import SPLITS, Coded, Solution, Task
from sae_gap.encoders import Encoder
from sae_gap.metrics import Inferred, Metric
from sae_gap.runtime import devices
from sae_gap.storage import Row, provenance
from sae_gap.study import Fit, Inference, Job, Line, Stored, Study

DIVERGED = "%s diverged: its %s not finite, and its metrics are left out"


def score(
    job: Job, tasks: Sequence[Task], fits: Sequence[Fit], stored: Stored
) -> Iterator[Row]:
    """Yields what the lines of a job lack, from the fits of its learner to the data of each
    source.
    """
    study = job.study
    made_by = provenance() | {"device": devices.describe()}
    for source, task, fit in zip(job.sources, tasks, fits, strict=True):
        # If a fit stopped by itself, its end and later steps share a model.
        by_model = defaultdict(list)
        for line in job.lines:
            if line.source.seed == source.seed:
                by_model[fit.at(line.step).step].append(line)
        for step, scored in by_model.items():
            fitted = fit.at(step)
            inference = Inference(task, fitted.model, study.calibrate_on, study.seconds)
            needed = _needed(job, scored, inference)
            made = {
                "fit_steps": fitted.step,
                "fit_seconds": fitted.seconds + fit.base_seconds,
                "compile_seconds": fit.compile_seconds,
                "fit_device": fit.device,
                **made_by,
            }
            for line in scored:
                metrics = stored.lacking(line) or []
                measured, done = _measure(study, line, inference, metrics)
                yield line.row(done, study.seconds) | measured | made
                inference.forget(needed)


def _needed(
    job: Job, lines: Sequence[Line], inference: Inference
) -> set[Encoder | None]:
    """The encoders whose codes others are compared with, or start from."""
    needed: set[Encoder | None] = {line.reference for line in lines}
    for line in lines:
        try:
            needed.update(inference.prepare(line.method.encoder).origins)
        except ValueError as error:
            # The numbers of its dictionary are at fault, for example atoms that are all zero.
            raise ValueError(f"{job.learner.name}: {error}") from error
    return needed


def _measure(
    study: Study, line: Line, inference: Inference, metrics: Sequence[Metric]
) -> tuple[Row, Sequence[Metric]]:
    """The columns of a line, and the metrics that did not fail."""
    method = line.method
    diverged = {"diverged": True, "measured": {}}
    if not finite(inference.model):
        logging.warning(DIVERGED, method.name, "model is")
        return diverged, metrics
    encoder = inference.prepare(method.encoder)
    # Without the truth no metric is fitted on the training split, which may be too large for codes.
    splits = inference.scored if inference.task.train.codes is None else SPLITS
    coded = {split: inference.infer(encoder, split) for split in splits}
    columns: Row = {}
    if study.seconds:
        columns["encode_seconds"] = inference.seconds(encoder)
    if study.lam is None and encoder.weight is not None and "lam" not in line.columns:
        columns["lam"] = encoder.weight
    codes = device_get({split: part.codes for split, part in coded.items()})
    if not finite(codes):
        logging.warning(DIVERGED, method.name, "codes are")
        return diverged | columns, metrics
    reference = line.reference
    optimum: dict[str, Any] = {}
    decodes = inference.model.dictionary is not None
    if study.optimum and reference and decodes:
        optimum = {
            split: inference.infer(reference, split) for split in inference.scored
        }
    inferred = inference.inferred(
        method,
        codes=codes,
        optimum=optimum,
        lam=reference and reference.lam,
        protocol=study.protocol,
        encoder=encoder,
    )
    done = _apply(study, line, inferred, metrics, columns)
    columns |= _certificates(inferred, coded)
    if optimum:
        columns["reference"] = "signed" if encoder.signed else "non-negative"
    return columns, done


def _apply(
    study: Study,
    line: Line,
    inferred: Inferred,
    metrics: Sequence[Metric],
    columns: Row,
) -> list[Metric]:
    """Adds the columns of metrics, and which of them each gave; returns those that did not fail."""
    comparable = line.reference and inferred.model.dictionary is not None
    measured: dict[str, list[str] | None] = {}
    done = []
    for metric in metrics:
        numbers = _numbers(metric, inferred)
        if numbers is None:
            continue
        taken = sorted((columns.keys() | line.columns.keys()) & numbers.keys())
        if taken:
            raise ValueError(
                f"the metric {metric.name!r} gives {taken[0]!r}, as another metric does or what "
                "tells rows apart; rename its column."
            )
        title = f"{metric.name} {metric.version}"
        # A study with the optimum measures what only it can tell.
        if comparable and not study.optimum and metric.needs(inferred) is not None:
            measured[title] = None
            continue
        columns |= numbers
        measured[title] = list(numbers)
        done.append(metric)
    columns["measured"] = measured
    return done


def _numbers(metric: Metric, inferred: Inferred) -> Mapping[str, Any] | None:
    """The numbers of a metric; None if it failed, and is one of every study."""
    method = inferred.method
    try:
        lacking = metric.needs(inferred)
        if lacking and not metric.everywhere:
            logging.info("%s of %s is left out: %s", metric.name, method.name, lacking)
        return dict(metric(inferred))
    except Exception as error:
        # A metric of every study costs its own columns; the next run measures it again.
        if not metric.everywhere:
            raise
        fault = "%s of the codes of %s on %s failed, and is left out: %r"
        learner = method.learner.name
        logging.warning(fault, metric.name, method.encoder.name, learner, error)
        return None


def _certificates(
    inferred: Inferred, coded: Mapping[str, Coded]
) -> Mapping[str, float]:
    """The certificates of the codes themselves, where they are solutions."""

    def largest(split: str) -> dict[str, float]:
        solution: Any = coded[split]
        gaps = solution.gap / np.maximum(solution.objective, 1e-30)
        return {"own_certificate": float(np.max(gaps))}

    return inferred.by_split(largest) if isinstance(coded["id"], Solution) else {}


def finite(tree: Any) -> bool:
    """True if all numbers are finite, those of sparse codes too."""
    numbers = [leaf.data if issparse(leaf) else leaf for leaf in tree_leaves(tree)]
    return all(np.isfinite(part).all() for part in numbers)
