"""The cost of codes: products with the dictionary, seconds, and their distance from the lasso."""

import time
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.sparse import csr_array

from sae_gap.core import Column
from sae_gap.encoders import OMP, Lasso, OnSupport
from sae_gap.metrics import Inferred, Metric, fires
from sae_gap.runtime import one_core

# Samples whose encoding is timed; and on one core, so many times.
TIMED = 2_000
TIMED_ON_CORE = 500
RUNS = 5


def cost_at(lam: float, k: int) -> Metric:
    """The cost of codes, compared with the certified lasso at a weight and a full pursuit of k.

    Its columns: `products`, multiply-adds per sample relative to one product with the dictionary,
    None if samples differ; `seconds` for 1,000 samples; `objective_gap`, the lasso objective above
    the certified optimum, relative to it; `shared`, the share of the full pursuit's support that
    the codes contain.
    """
    return Metric(
        "cost",
        partial(_measure, lam=lam, k=k),
        {
            "products": Column("products with the dictionary"),
            "seconds": Column("seconds of 1,000 samples"),
            "objective_gap": Column("lasso objective above the optimum"),
            "shared": Column("share of the full pursuit's support", 1.0),
        },
        everywhere=False,
    )


def _measure(inferred: Inferred, lam: float, k: int) -> dict[str, Any]:
    encoder: Any = inferred.encoder
    dim, width = inferred.model.decoder.shape
    counts = inferred.counts
    nonneg = not inferred.learner.signed
    flops = encoder.flops(dim, width)

    def find() -> tuple[float, csr_array]:
        best: Any = inferred.infer(Lasso(lam, nonneg=nonneg))
        pursued = inferred.infer(
            OnSupport(OMP(k, nonneg=nonneg), 0.0, nonneg, 0.0)
        ).codes
        return np.asarray(best.objective, float)[counts].sum(), fires(pursued)[counts]

    optimum, full = inferred.once(f"cost at {lam}", find)
    on = fires(inferred.codes["id"])[counts]
    reached = inferred.terms(inferred.codes["id"]).objective(lam)[counts].sum()
    products = None
    if flops is not None:
        size = encoder.fitted * on.sum() / counts.sum()
        products = flops / (2 * dim * width) + size * (1 + size) / width
    return {
        "products": products,
        "seconds": inferred.inference.time(encoder, TIMED),
        "objective_gap": reached / optimum - 1,
        "shared": int(on.multiply(full).sum()) / max(1, int(full.sum())),
    }


def processor_time() -> Metric:
    """The price of codes where they are found by one thread of a CPU.

    Its column is `processor`: the processor time of the codes over that of the SAE's encoder, each
    the median of five runs on 500 rows, and 1 for that encoder itself.
    """
    return Metric(
        "processor",
        _processor,
        {"processor": Column("processor time of one thread, the SAE's encoder = 1")},
        everywhere=False,
    )


def _processor(inferred: Inferred) -> dict[str, Any]:
    """Both sides are timed for each encoder anew, so that the ratio is of one moment."""
    base = inferred.learner.base
    # An encoder that was trained on a dictionary as it is has that dictionary's as its unit.
    unit = inferred.learner.encode if base is None else base.encode
    if unit is None or jax.default_backend() != "cpu":
        return {"processor": None}
    if base is None and unit == inferred.method.encoder:
        return {"processor": 1.0}
    clock = TIMED_ON_CORE, RUNS, time.process_time
    with one_core():
        seconds = inferred.inference.time(inferred.encoder, *clock)
        unit_seconds = inferred.inference.on_base(base).time(unit, *clock)
    return {"processor": seconds / unit_seconds}
