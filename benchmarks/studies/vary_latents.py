r"""How does recovery fall as concepts crowd the signal?

Every method at 50 to 10,000 latents, ten of them active, in the dimension that compressed sensing
asks for. The oracle stays at the top at every size; what falls is what must learn its dictionary.

  python -m sae_gap vary_latents
  python -m sae_gap vary_latents --preset=paper --seeds=0 \
    --methods=linear_probe,sae_topk,online_dl,fista_oracle
"""

from benchmarks.harness import PRESETS_BY_LATENTS, Bench, drawings, methods

BENCH = Bench(
    __name__,
    "Number of latents",
    methods.everything,
    PRESETS_BY_LATENTS,
    drawings.recovery_along("num_latents"),
)
