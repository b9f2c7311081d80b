"""How much does the choice of λ decide?

The best codes on each SAE's dictionary and on the true one at weights from .001 to 2, beside each SAE's own codes, whose gap is
taken at .1. A gap of codes that were found at a weight is to the optimum at that weight.

  python -m sae_gap lambda_sensitivity
  python -m sae_gap lambda_sensitivity --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

import dataclasses

from benchmarks import cli
from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench, Knob
from benchmarks.harness.preset import SMOKE, WIDTHS, Preset
from sae_gap.core.checks import check_number

LAMBDAS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def _methods(source, p):
    weights = p.knobs["lam"]
    return [*methods.own(source, p), *methods.frozen(source, p, weights=weights), *methods.oracle(p, weights=weights)]


def _weights(text):
    weights = cli.parse_numbers("lam", text.split(","))
    for lam in weights:
        check_number("lam", lam, above=0, below=1e30)
    return weights


BENCH = Bench(
    "lambda_sensitivity",
    "Sensitivity to λ",
    __doc__,
    _methods,
    {
        "smoke": dataclasses.replace(SMOKE, knobs={"lam": (0.01, 0.1, 1.0)}),
        "quick": Preset(),
        "paper": Preset(num_latents=WIDTHS),
    },
    varies=("lam",),
    knobs={"lam": Knob(LAMBDAS, "Weights of the l1 norm.", _weights)},
    figures=drawings.along("lam", ("mcc_ood", "l0_above_id"), logx=True, only="lasso"),
)
