"""What is an SAE's dictionary worth as a start for dictionary learning?

DL-FISTA from a random dictionary (cold) and from each SAE's (warm), scored along one fit after 0 to
1,000 rounds with the best codes, beside the oracle. The paper scores each dictionary an update
late; its counts are shifted to match.

  python -m sae_gap warmstart_decoder
  python -m sae_gap warmstart_decoder --preset=paper --protocol=paper --num_latents=50,100
"""

from benchmarks.harness import drawings, learners, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import PRESETS

ROUNDS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
PUBLISHED = (0, 1, 4, 9, 19, 49, 99, 199, 499, 999)


def _methods(source, p):
    at = tuple(
        step for step in (PUBLISHED if p.protocol == "paper" else ROUNDS) if step <= p.rounds
    )

    def learned(name, sae, start, base):
        learner = learners.dl_fista(p, base=sae)
        return methods.coded(name, learner, p, at=at, start=start, base=base)

    warm = [
        learned(f"warm_dl_{name}", learners.sae(name, source, p), "warm", name)
        for name in methods.SAES
    ]
    return [learned("cold_dl", None, "cold", "random"), *warm, *methods.oracle(p)]


BENCH = Bench(
    "warmstart_decoder",
    "Warm start from the decoder",
    __doc__,
    _methods,
    PRESETS,
    varies=("step", "start", "base"),
    figures=drawings.along("step", ("mcc_ood", "cosine"), line="base", dash="start"),
)
