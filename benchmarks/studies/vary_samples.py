"""How many samples does each method need?

Every method at 100 latents and 100 to 100,000 samples, half of them for training.

  python -m sae_gap vary_samples
  python -m sae_gap vary_samples --preset=paper --protocol=paper
"""

from benchmarks.harness import Bench, drawings, methods, presets

BENCH = Bench(
    __name__,
    "Number of samples",
    methods.everything,
    presets(
        smoke={"num_samples": (100, 200)},
        quick={"num_samples": (100, 500, 1_000, 5_000)},
        paper={"num_samples": (100, 500, 1_000, 5_000, 10_000, 50_000, 100_000)},
    ),
    drawings.recovery_along("num_samples"),
)
