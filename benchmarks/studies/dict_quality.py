"""Is it the lengths of the atoms or their directions?

Each SAE's dictionary with the best codes: as it was learned, with unit atoms, and with the lengths
of the true atoms that they are matched with; beside them the oracle, and how far the atoms lie from
the true ones. In the protocol "strict" λ counts on unit atoms, so lengths change nothing; in
"paper" the weight bears on the atoms as they are.

  python -m sae_gap dict_quality
  python -m sae_gap dict_quality --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

from typing import Any

from benchmarks.harness import (
    INFERENCE,
    PRESETS_BY_LATENTS,
    RECOVERY,
    Bench,
    drawings,
    learners,
    methods,
)
from sae_gap.learners import Surgery
from sae_gap.study import Method


def _methods(source: Any, p: Any) -> list[Method]:
    saes = {name: learners.sae(name, source, p) for name in methods.SAES}
    found = [
        methods.on("frozen", name, sae, p, columns="learned")
        for name, sae in saes.items()
    ]
    for columns in ("renormed", "oracle_norms"):
        for name, sae in saes.items():
            cut = Surgery(columns, base=sae)
            found.append(methods.coded(f"{columns}_{name}", cut, p, family="frozen"))
    return found + methods.oracle(source, p)


BENCH = Bench(
    __name__,
    "Quality of the dictionary",
    _methods,
    PRESETS_BY_LATENTS,
    drawings.plain("matched_cosines") | drawings.inference_along(style="columns"),
    {
        "Recovery": RECOVERY,
        "Columns": "cosine close angle norm_ratio",
        "Inference on ID": INFERENCE,
    },
    varies=("columns",),
)
