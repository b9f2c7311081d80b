"""What is left at a million concepts?

The oracle and the linear probe at 1,000 to 1,000,000 latents, ten of them active, from 1,000
samples in the dimension that compressed sensing asks for. Codes are held by their non-zeros
and the lasso is solved a hundred samples at a time, so that memory is set by the dictionary.
Whoever learns a dictionary can be named at the sizes that fit.

  python -m sae_gap large_latents
  python -m sae_gap large_latents --preset=paper --seeds=0
  python -m sae_gap large_latents --num_latents=1000,10000 --methods=all
"""

import dataclasses

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import SMOKE, Preset

LEARNERS = ("sae_topk", "dl_fista", "online_dl")


def _methods(source, p):
    return [
        *methods.probe(),
        *methods.own(source, p, names=("topk",)),
        *methods.learned(p),
        *methods.oracle(p),
    ]


BENCH = Bench(
    "large_latents",
    "Large numbers of latents",
    __doc__,
    _methods,
    {
        "smoke": dataclasses.replace(SMOKE, num_latents=(20, 30)),
        "quick": Preset(num_latents=(1_000, 10_000), num_samples=(1_000,)),
        "paper": Preset(
            num_latents=(1_000, 10_000, 100_000, 500_000, 1_000_000), num_samples=(1_000,)
        ),
    },
    figures=drawings.recovery_along("num_latents"),
    slow=LEARNERS,
)
