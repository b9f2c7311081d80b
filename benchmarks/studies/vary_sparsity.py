"""How does recovery fall as more concepts are active at once?

Every method at 1,000 latents and 2 to 100 of them active, in the dimension that compressed sensing
asks for.

  python -m sae_gap vary_sparsity
  python -m sae_gap vary_sparsity --preset=paper --seeds=0
"""

from benchmarks.harness import Bench, drawings, methods, presets

BENCH = Bench(
    __name__,
    "Sparsity",
    methods.everything,
    presets(
        smoke={"sparsity": (2, 3)},
        quick={"sparsity": (2, 5, 10, 20)},
        paper={"num_latents": (1_000,), "sparsity": (2, 5, 10, 20, 50, 100)},
    ),
    drawings.recovery_along("sparsity"),
)
