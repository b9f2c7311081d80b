"""How much does the choice of λ decide?

The best codes on each SAE's dictionary and on the true one at weights from .001 to 2, beside each
SAE's own codes, whose gap is taken at .1. A gap of codes that were found at a weight is to the
optimum at that weight.

  python -m sae_gap lambda_sensitivity
  python -m sae_gap lambda_sensitivity --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

import dataclasses

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import SMOKE, WIDTHS, Preset
from benchmarks.options import option

LAMBDAS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Weights(Preset):
    """A preset whose flag `--lam` lists the weights of the best codes; `lam` is what own codes are
    held against.
    """

    lam: float = 0.1
    weights: tuple[float, ...] = option(LAMBDAS, "Weights of the l1 norm.", least=1e-30, flag="lam")


def _methods(source, p):
    weights = p.weights
    return [
        *methods.own(source, p),
        *methods.frozen(source, p, weights=weights),
        *methods.oracle(p, weights=weights),
    ]


BENCH = Bench(
    "lambda_sensitivity",
    "Sensitivity to λ",
    __doc__,
    _methods,
    {
        "smoke": Weights(**vars(SMOKE), weights=(0.01, 0.1, 1.0)),
        "quick": Weights(),
        "paper": Weights(num_latents=WIDTHS),
    },
    varies=("lam",),
    figures=drawings.along("lam", ("mcc_ood", "l0_above_id"), only="lasso"),
)
