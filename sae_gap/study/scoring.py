"""The rows of a job: its methods infer on the fitted models, and metrics score the codes."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from scipy.sparse import issparse

from sae_gap.core import SPLITS, Solution, Task
from sae_gap.runtime import devices
from sae_gap.storage import results
from sae_gap.study import Fit, Inference, Job, Stored


def score(
    job: Job, tasks: Sequence[Task], fits: Sequence[Fit], stored: Stored
) -> Iterator[results.Row]:
    """Yields what the lines of a job lack, from the fits of its learner to the data of each
    source.
    """
    study = job.study
    provenance = results.provenance() | {"device": devices.describe()}
    for source, task, fit in zip(job.sources, tasks, fits, strict=True):
        # If a fit stopped by itself, its end and later steps share one model; infer on it only
        # once.
        by_model: Any = {}
        for line in job.lines:
            if line.source.seed == source.seed:
                model = by_model.setdefault(fit.at(line.step).step, [])
                model.append((line, stored.lacking(line)))
        for step, lines in by_model.items():
            fitted = fit.at(step)
            inference = Inference(task, fitted.model, study.calibrate_on, study.seconds)
            # Keep codes until the last method that is compared with them or starts from them.
            try:
                ready = [inference.prepare(line.method.encoder) for line, _ in lines]
            except ValueError as error:
                # The numbers of its dictionary are at fault, for example atoms that are all zero.
                raise ValueError(f"{job.learner.name}: {error}") from error
            needed = {line.reference for line, _ in lines}.union(
                *(each.origins for each in ready)
            )
            made = {
                "fit_steps": fitted.step,
                "fit_seconds": fitted.seconds + fit.base_seconds,
                "compile_seconds": fit.compile_seconds,
                "fit_device": fit.device,
                **provenance,
            }
            for line, metrics in lines:
                measured, done = _measure(study, line, inference, metrics)
                yield line.row(done, study.seconds) | measured | made
                inference.forget(needed)


def _measure(study, line, inference, metrics):
    """The columns of a line, and the metrics that did not fail."""
    method = line.method
    reference = line.reference
    said = "%s diverged: its %s not finite, and its metrics are left out"
    diverged = {"diverged": True, "measured": {}}
    if not _finite(inference.model):
        logging.warning(said, method.name, "model is")
        return diverged, metrics
    scored = inference.scored
    # Without the truth no metric is fitted on the training split, which may be too large for codes.
    splits = SPLITS if inference.task.train.codes is not None else scored
    encoder = inference.prepare(method.encoder)
    inferred = {split: inference.infer(encoder, split) for split in splits}
    measured = {}
    if study.seconds:
        measured["encode_seconds"] = inference.seconds(encoder)
    if study.lam is None and encoder.weight is not None and "lam" not in line.columns:
        measured["lam"] = encoder.weight
    codes = jax.device_get({split: coded.codes for split, coded in inferred.items()})
    if not _finite(codes):
        logging.warning(said, method.name, "codes are")
        return diverged | measured, metrics
    optimum = {}
    comparable = inference.model.dictionary is not None and reference is not None
    if comparable and study.optimum:
        optimum = {split: inference.infer(reference, split) for split in scored}
    found = inference.inferred(
        codes=codes,
        optimum=optimum,
        lam=reference and reference.lam,
        protocol=study.protocol,
        encoder=encoder,
        method=method,
    )
    owned: dict[str, list[str] | None] = {}
    done = []
    for metric in metrics:
        try:
            lacking = metric.needs(found)
            if lacking is not None and not metric.everywhere:
                logging.info(
                    "%s of %s is left out: %s", metric.name, method.name, lacking
                )
            columns = dict(metric(found))
        except Exception as error:
            # A metric of every study costs its own columns; the next run measures it again.
            if not metric.everywhere:
                raise
            fault = "%s of the codes of %s on %s failed, and is left out: %r"
            logging.warning(
                fault, metric.name, encoder.name, method.learner.name, error
            )
            continue
        taken = sorted((measured.keys() | line.columns.keys()) & columns.keys())
        if taken:
            raise ValueError(
                f"the metric {metric.name!r} gives {taken[0]!r}, as another metric does or what "
                "tells rows apart; rename its column."
            )
        # A study with the optimum measures what only it can tell.
        if lacking is not None and comparable and not study.optimum:
            owned[f"{metric.name} {metric.version}"] = None
            continue
        measured |= columns
        owned[f"{metric.name} {metric.version}"] = [*columns]
        done.append(metric)

    def certificate(split):
        own = inferred[split]
        return {
            "own_certificate": float(np.max(own.gap / np.maximum(own.objective, 1e-30)))
        }

    if isinstance(inferred["id"], Solution):
        measured |= found.by_split(certificate)
    if optimum:
        measured["reference"] = "signed" if encoder.signed else "non-negative"
    return measured | {"measured": owned}, done


def _finite(tree):
    return all(
        np.isfinite(leaf.data if issparse(leaf) else leaf).all()
        for leaf in jax.tree.leaves(tree)
    )
