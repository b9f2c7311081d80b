"""Does an SAE find which concepts are on, and is it the values or the support that it gets wrong?

Each SAE with its own codes, with the best values on their support (of the lasso, and by least
squares as published), and with the best codes on its dictionary, beside the oracle: precision,
recall and F1 of the supports through the matched atoms.

  python -m sae_gap support_recovery
  python -m sae_gap support_recovery --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

from benchmarks.harness import (
    INFERENCE,
    PRESETS_BY_LATENTS,
    RECOVERY,
    Bench,
    drawings,
    methods,
)

SUPPORT = (
    "support_precision_id support_precision_ood support_recall_id support_recall_ood support_f1_id "
    "support_f1_ood support_l0_id"
)
BENCH = Bench(
    __name__,
    "Recovery of the support",
    methods.every(
        methods.saes("sae", "support", "least_squares", "frozen"), methods.oracle
    ),
    PRESETS_BY_LATENTS,
    {"decomposition": drawings.parts("support_f1_ood")}
    | drawings.inference_along("support_f1_ood", style="inference"),
    {"Supports": SUPPORT, "Recovery": RECOVERY, "Inference on ID": INFERENCE},
    parts=True,
)
