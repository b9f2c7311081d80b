"""The rows of a job: its methods infer on the fitted models, and metrics score what they infer."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from absl import logging
from scipy.sparse import issparse

from sae_gap.core.codes import Codes
from sae_gap.core.types import SPLITS, Solution, Task
from sae_gap.metrics.metric import SCORED, Inferred
from sae_gap.runtime import devices
from sae_gap.storage import results
from sae_gap.study.fitting import Fit
from sae_gap.study.inference import Inference
from sae_gap.study.job import Job, Line
from sae_gap.study.study import Study


def score(study: Study, job: Job, tasks: Sequence[Task], fits: Sequence[Fit]) -> list[results.Row]:
    """The rows of a job whose learner is fitted to the data of each of its sources."""
    provenance = results.provenance() | {"device": devices.describe(), "job": job.name}
    rows = []
    for source, task, fit in zip(job.sources, tasks, fits, strict=True):
        # Steps at and beyond the end of a fit that stopped by itself have one model, on which
        # nothing is inferred twice.
        by_model: dict[int, list[Line]] = {}
        for line in job.lines:
            if line.source == source:
                by_model.setdefault(fit.at(line.step).step, []).append(line)
        for lines in by_model.values():
            fitted = fit.at(lines[0].step)
            inference, shared = Inference(task, fitted.model), dict[Any, Any]()
            # Codes that others are held against, or start from, are kept until the last of them.
            kept = {line.method.encoder.origin for line in lines} | {
                line.reference for line in lines
            }
            made = {
                "fit_steps": fitted.step,
                "fit_seconds": fitted.seconds,
                "compile_seconds": fit.compile_seconds,
                "fit_device": fit.device,
                **provenance,
            }
            for line in lines:
                measured = _measure(study, line, inference, shared)
                taken = sorted(line.columns.keys() & measured.keys())
                if taken:
                    raise ValueError(
                        f"a metric gives {taken[0]!r}, which tells rows apart; rename the metric's "
                        "column."
                    )
                rows.append(line.columns | measured | made)
                inference.forget(kept)
    return rows


def _measure(
    study: Study, line: Line, inference: Inference, shared: dict[Any, Any]
) -> dict[str, Any]:
    method, reference, task = line.method, line.reference, inference.task
    if not _finite(inference.model):
        logging.warning(
            "%s diverged: its model is not finite, and its metrics are left out", method.name
        )
        return {"diverged": True}
    # Without the truth there is nothing to fit a metric to on the training split, which may be too
    # large for codes.
    splits = SPLITS if task.train.codes is not None else SCORED
    inferred = {split: inference.infer(method.encoder, split) for split in splits}
    measured: dict[str, Any] = {"encode_seconds": inference.seconds(method.encoder)}
    codes = {split: _on_host(coded.codes) for split, coded in inferred.items()}
    if not _finite(codes):
        logging.warning(
            "%s diverged: its codes are not finite, and its metrics are left out", method.name
        )
        return {"diverged": True} | measured
    optimum: dict[str, Solution] = {}
    if inference.model.dictionary is not None and study.optimum:
        optimum = {
            split: cast(Solution, inference.infer(reference, split).certified) for split in SCORED
        }
    scored = Inferred(task, inference.model, codes, optimum, reference.lam, study.protocol, shared)
    for metric in study.metrics:
        columns = metric(scored)
        taken = sorted(measured.keys() & columns.keys())
        if taken:
            raise ValueError(
                f"the metric {metric.name!r} gives {taken[0]!r}, as another metric does; rename "
                "one of the two."
            )
        measured |= columns
    for split in SCORED:
        certified = inferred[split].certified
        if certified is not None:
            measured[f"own_certificate_{split}"] = float(
                np.max(certified.gap / np.maximum(certified.objective, 1e-30))
            )
    if optimum:
        measured["reference"] = "signed" if method.encoder.signed else "non-negative"
    return measured


def _on_host(codes: Any) -> Any:
    return codes if isinstance(codes, Codes) or issparse(codes) else np.asarray(codes)


def _finite(tree: Any) -> bool:
    return all(
        np.isfinite(leaf.data if issparse(leaf) else leaf).all() for leaf in jax.tree.leaves(tree)
    )
