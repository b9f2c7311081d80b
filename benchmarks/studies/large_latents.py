"""What is left at a million concepts?

The oracle and the linear probe at 1,000 to 1,000,000 latents, ten of them active, from 1,000
samples in the dimension that compressed sensing asks for. Codes are held by their non-zeros
and the lasso is solved a hundred samples at a time, so that memory is set by the dictionary.
Whoever learns a dictionary can be named at the sizes that fit.

  python -m sae_gap large_latents
  python -m sae_gap large_latents --preset=paper --seeds=0
  python -m sae_gap large_latents --num_latents=1000,10000 --methods=all
"""

from benchmarks.harness import Bench, drawings, methods, presets

_FEW = {"num_samples": (1_000,)}
BENCH = Bench(
    __name__,
    "Large numbers of latents",
    methods.every(
        methods.probe,
        methods.saes("sae", names=("topk",)),
        methods.learned,
        methods.oracle,
    ),
    presets(
        smoke={"num_latents": (20, 30)},
        quick=_FEW | {"num_latents": (1_000, 10_000)},
        paper=_FEW | {"num_latents": (1_000, 10_000, 100_000, 500_000, 1_000_000)},
    ),
    drawings.recovery_along("num_latents"),
    slow=("sae_topk", "dl_fista", "online_dl"),
)
