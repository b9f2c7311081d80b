"""How does recovery fall as more concepts are active at once?

Every method at 1,000 latents and 2 to 100 of them active, in the dimension that compressed sensing
asks for.

  python -m sae_gap vary_sparsity
  python -m sae_gap vary_sparsity --preset=paper --seeds=0
"""

import dataclasses

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import SMOKE, Preset

BENCH = Bench(
    "vary_sparsity",
    "Sparsity",
    __doc__,
    methods.everything,
    {
        "smoke": dataclasses.replace(SMOKE, sparsity=(2, 3)),
        "quick": Preset(sparsity=(2, 5, 10, 20)),
        "paper": Preset(num_latents=(1_000,), sparsity=(2, 5, 10, 20, 50, 100)),
    },
    figures=drawings.recovery_along("sparsity"),
    slow=("softplus_adam",),
)
