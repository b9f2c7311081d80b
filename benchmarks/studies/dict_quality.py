"""Is it the lengths of the atoms or their directions?

Each SAE's dictionary with the best codes: as it was learned, with unit atoms, and with the lengths
of the true atoms that they are matched with; beside them the oracle, and how far the atoms lie from
the true ones. In the protocol "strict" λ counts on unit atoms, so lengths change nothing; in
"paper" the weight bears on the atoms as they are.

  python -m sae_gap dict_quality
  python -m sae_gap dict_quality --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import INFERENCE, RECOVERY, Bench
from benchmarks.harness.preset import PRESETS_BY_LATENTS
from sae_gap.learners import Surgery
from sae_gap.storage import CELL


def _methods(source, p):
    saes = methods.saes(source, p)
    frozen = [methods.coded(f"frozen_{sae.name}", sae, p, columns="learned") for sae in saes]
    cut = [
        methods.coded(f"{columns}_{sae.name}", Surgery(columns, base=sae), p, family="frozen")
        for columns in ("renormed", "oracle_norms")
        for sae in saes
    ]
    return [*frozen, *cut, *methods.oracle(p)]


BENCH = Bench(
    "dict_quality",
    "Quality of the dictionary",
    __doc__,
    _methods,
    PRESETS_BY_LATENTS,
    varies=("columns",),
    figures=drawings.plain("matched_cosines", CELL) | drawings.inference_along(style="columns"),
    tables={
        "Recovery": RECOVERY,
        "Columns": "cosine close angle norm_ratio",
        "Inference on ID": INFERENCE,
    },
)
