"""Is it the lengths of the atoms or their directions?

Each SAE's dictionary with the best codes: as it was learned, with unit atoms, and with the lengths of the true atoms that they
are matched with; beside them the oracle, and how far the atoms lie from the true ones. In the protocol "strict" λ counts on
unit atoms, so lengths change nothing; in "paper" the weight bears on the atoms as they are.

  python -m sae_gap dict_quality
  python -m sae_gap dict_quality --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

import dataclasses

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import INFERENCE, RECOVERY, SMOKE, WIDTHS, Bench, Preset


def _methods(source, p):
    frozen = [dataclasses.replace(method, row={**method.row, "columns": "learned"}) for method in _frozen(source, p)]
    cut = [methods.renormed(name, source, p, columns) for columns in ("renormed", "oracle_norms") for name in methods.SAES]
    return [*frozen, *cut, methods.oracle(p)]


def _frozen(source, p):
    return [methods.frozen(name, source, p) for name in methods.SAES]


BENCH = Bench(
    "dict_quality",
    __doc__,
    _methods,
    {
        "smoke": dataclasses.replace(SMOKE, num_latents=(20, 30)),
        "quick": Preset(num_latents=(50, 100)),
        "paper": Preset(num_latents=WIDTHS),
    },
    varies=("columns",),
    figures=drawings.cosines() | drawings.inference_along("num_latents", style="columns"),
    tables={
        "Recovery": RECOVERY,
        "Columns": {"cosine": "cosine", "close": "cos > .9", "angle": "angle", "norm_ratio": "norm ratio"},
        "Inference on ID": INFERENCE,
    },
)

if __name__ == "__main__":
    BENCH.run()
