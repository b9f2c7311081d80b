"""How much does the choice of λ decide?

The best codes on each SAE's dictionary and on the true one at weights from .001 to 2, beside each SAE's own codes, whose gap is
taken at .1. A gap of codes that were found at a weight is to the optimum at that weight.

  python -m sae_gap lambda_sensitivity
  python -m sae_gap lambda_sensitivity --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

import dataclasses

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import SMOKE, WIDTHS, Bench, Preset

LAMBDAS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def _methods(source, p):
    own = [methods.own(name, source, p) for name in methods.SAES]
    frozen = [methods.frozen(name, source, p, lam=lam) for name in methods.SAES for lam in p.lam]
    return [*own, *frozen, *(methods.oracle(p, lam=lam) for lam in p.lam)]


BENCH = Bench(
    "lambda_sensitivity",
    __doc__,
    _methods,
    {
        "smoke": dataclasses.replace(SMOKE, lam=(0.01, 0.1, 1.0)),
        "quick": Preset(lam=LAMBDAS),
        "paper": Preset(num_latents=WIDTHS, lam=LAMBDAS),
    },
    varies=("lam",),
    figures=drawings.along("lam", ("mcc_ood", "l0_id"), logx=True, only="lasso"),
)

if __name__ == "__main__":
    BENCH.run()
