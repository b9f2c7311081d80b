"""What is an SAE's dictionary worth as a start for dictionary learning?

DL-FISTA from a random dictionary (cold) and from each SAE's (warm), scored along one fit after 0 to
1,000 rounds with the best codes, beside the oracle. The paper scores each dictionary an update
late; its counts are shifted to match.

  python -m sae_gap warmstart_decoder
  python -m sae_gap warmstart_decoder --preset=paper --protocol=paper --num_latents=50,100
"""

from typing import Any

from benchmarks.harness import PRESETS, Bench, drawings, learners, methods
from sae_gap.study import Method

ROUNDS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
PUBLISHED = (0, 1, 4, 9, 19, 49, 99, 199, 499, 999)


def _methods(source: Any, p: Any) -> list[Method]:
    rounds = PUBLISHED if p.protocol == "paper" else ROUNDS
    at = tuple(step for step in rounds if step <= p.rounds)
    starts = {
        f"warm_dl_{name}": (learners.sae(name, source, p), name)
        for name in methods.SAES
    }
    return [
        methods.coded(
            name, learners.dl_fista(p, sae), p, at=at, start=name[:4], base=base
        )
        for name, (sae, base) in ({"cold_dl": (None, "random")} | starts).items()
    ] + methods.oracle(source, p)


BENCH = Bench(
    __name__,
    "Warm start from the decoder",
    _methods,
    PRESETS,
    drawings.along("step", ("mcc_ood", "cosine"), line="base", dash="start"),
    varies=("step", "start", "base"),
)
