"""How far does better inference bring each SAE on the dictionary that it has?

Each SAE with its own codes, with the best values on their support, and with the best codes on its
dictionary, found from zero and from its own; beside them the probe, dictionary learning and the
oracle, at 50 to 10,000 latents.

  python -m sae_gap frozen_decoder
  python -m sae_gap frozen_decoder --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

from benchmarks.harness import PRESETS_BY_LATENTS, Bench, drawings, methods

BENCH = Bench(
    __name__,
    "Frozen decoder",
    methods.every(
        methods.probe,
        methods.parts,
        methods.learned,
        methods.softplus_adam,
        methods.oracle,
    ),
    PRESETS_BY_LATENTS,
    figures={"decomposition": drawings.parts()}
    | drawings.inference_along(style="inference"),
    parts=True,
)
