"""The rows of a job: its methods infer on the fitted models, and metrics score what they infer."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from absl import logging
from scipy.sparse import issparse

from sae_gap.core import identity
from sae_gap.core.codes import Codes
from sae_gap.core.types import SPLITS, Solution, Task
from sae_gap.metrics.metric import SCORED, Inferred
from sae_gap.runtime import devices
from sae_gap.storage import results
from sae_gap.study.fitting import Fit
from sae_gap.study.inference import Inference, name_of
from sae_gap.study.job import Job, reference_of
from sae_gap.study.study import Method, Study


def score(study: Study, job: Job, tasks: Sequence[Task], outcomes: Sequence[Fit]) -> list[results.Row]:
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
                place_of_row = (
                    {"key": job.keys[description["seed"], place, step], "job": job.name, "study": study.name}
                    | {"method": method.name, "family": method.family}
                    | method.coordinates
                    | ({} if step is None else {"step": step})
                    | {"protocol": study.protocol, "lam": reference_of(study, method).lam}
                    | description
                )
                measured = _measure(study, method, inference, shared)
                taken = sorted(place_of_row.keys() & measured.keys())
                if taken:
                    raise ValueError(f"a metric gives {taken[0]!r}, which tells rows apart; rename the metric's column.")
                rows.append(
                    place_of_row
                    | measured
                    | {"fit_steps": fitted.step, "fit_seconds": fitted.seconds, "compile_seconds": outcome.compile_seconds}
                    | {"learner": identity.describe(method.learner), "encoder": identity.describe(method.encoder)}
                    | {"fit_device": outcome.device}
                    | provenance
                )
                inference.forget(kept)
    return rows


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
        found = metric(scored)
        taken = sorted(measured.keys() & found.keys())
        if taken:
            raise ValueError(f"the metric {metric.name!r} gives {taken[0]!r}, as another metric does; rename one of the two.")
        measured |= found
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
