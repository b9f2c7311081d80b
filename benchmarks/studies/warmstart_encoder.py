"""What are an SAE's codes worth as a start for FISTA?

FISTA on each SAE's dictionary, cut short after 0 to 500 iterations, from zero (cold) and from the
SAE's own codes (warm), and on the true dictionary. The gap is to the certified optimum at the same
weight.

  python -m sae_gap warmstart_encoder
  python -m sae_gap warmstart_encoder --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

from benchmarks.harness import drawings, learners, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import PRESETS
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.oracle import Oracle
from sae_gap.study.study import Method

ITERATIONS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def _methods(source, p):
    def fista(count, start=None):
        return Lasso(
            p.lam, start, tol=None, max_iterations=count, unit_atoms=p.protocol == "strict"
        )

    found = []
    for name in methods.SAES:
        sae = learners.sae(name, source, p)
        found += [Method(f"cold_{name}", "frozen", sae, fista(count)) for count in ITERATIONS]
        found += [
            Method(f"warm_{name}", "refined", sae, fista(count, sae.encoder))
            for count in ITERATIONS
        ]
    return found + [
        Method("fista_oracle", "oracle", Oracle(), fista(count)) for count in ITERATIONS
    ]


BENCH = Bench(
    "warmstart_encoder",
    "Warm start from the encoder",
    __doc__,
    _methods,
    PRESETS,
    varies=("iterations", "start"),
    figures=drawings.along("iterations", ("mcc_ood", "relative_gap_id"), dash="start"),
)
