"""How many samples does each method need?

Every method at 100 latents and 100 to 100,000 samples, half of them for training.

  python -m sae_gap vary_samples
  python -m sae_gap vary_samples --preset=paper --protocol=paper
"""

import dataclasses

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import SMOKE, Preset

BENCH = Bench(
    "vary_samples",
    "Number of samples",
    __doc__,
    methods.everything,
    {
        "smoke": dataclasses.replace(SMOKE, num_samples=(100, 200)),
        "quick": Preset(num_samples=(100, 500, 1_000, 5_000)),
        "paper": Preset(num_samples=(100, 500, 1_000, 5_000, 10_000, 50_000, 100_000)),
    },
    figures=drawings.recovery_along("num_samples"),
    slow=("softplus_adam",),
)
