"""How much does the choice of λ decide?

The best codes on each SAE's dictionary and on the true one at weights from .001 to 2, beside each
SAE's own codes, whose gap is taken at .1. A gap of codes that were found at a weight is to the
optimum at that weight.

  python -m sae_gap lambda_sensitivity
  python -m sae_gap lambda_sensitivity --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

import dataclasses
from typing import Any

from benchmarks.harness import (
    WIDTHS,
    Bench,
    Preset,
    drawings,
    frozen,
    methods,
    option,
    presets,
)
from sae_gap.study import Method

LAMBDAS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@frozen
class Weights(Preset):
    """A preset whose flag `--lam` lists the weights of the best codes; `lam` is what own codes are
    held against.
    """

    lam: float = 0.1
    weights: tuple[float, ...] = option(
        LAMBDAS, "Weights of the l1 norm.", least=1e-30, flag="lam"
    )


def _methods(source: Any, p: Any) -> list[Method]:
    found = methods.saes("sae")(source, p)
    best = methods.every(methods.saes("frozen"), methods.oracle)
    for weight in p.weights:
        found += best(source, dataclasses.replace(p, lam=weight))
    return found


BENCH = Bench(
    __name__,
    "Sensitivity to λ",
    _methods,
    presets(
        Weights, smoke={"weights": (0.01, 0.1, 1.0)}, paper={"num_latents": WIDTHS}
    ),
    drawings.along(
        "lam",
        ("mcc_ood", "l0_above_id"),
        lambda rows: [row for row in rows if row["inference"] == "lasso"],
    ),
    varies=("lam",),
)
