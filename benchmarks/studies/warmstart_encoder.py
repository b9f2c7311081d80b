"""What are an SAE's codes worth as a start for FISTA, and how much of its amortisation gap does
one more product with the dictionary close?

FISTA on each SAE's dictionary, cut short after 0 to 500 iterations, from zero (cold) and from the
SAE's own codes (warm), and on the true dictionary. Beside them stand the own codes, pursuits of one
to four screens, and the certified optimum, to which the gap is taken at the same weight.

  python -m sae_gap warmstart_encoder --tuned=topk,jumprelu
  python -m sae_gap warmstart_encoder --preset=paper --protocol=paper --num_latents=50,100,500,1000
"""

import math
from typing import Any

from benchmarks.harness import WIDTHS, Bench, Tuned, drawings, methods, presets
from sae_gap import catalogue
from sae_gap.analysis import Lines
from sae_gap.encoders import FISTA, ScreenedPursuit
from sae_gap.learners import Oracle
from sae_gap.storage import CELL, Row
from sae_gap.study import Method

ITERATIONS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
SCREENS = (1, 2, 3, 4)
_SCORES = ("mcc_ood", "mcc_id", "relative_gap_ood")


def _methods(source: Any, p: Any) -> list[Method]:
    def fista(count, start=None):
        unit = p.protocol == "strict"
        return FISTA(p.lam, start, iterations=count, unit_atoms=unit)

    found = []
    for name, sae in methods.with_tuned(source, p).items():
        # Rows of the paper's SAEs keep their keys.
        row = {} if name == sae.name else {"dictionary": name}
        found.append(methods.on("sae", name, sae, p, **row))
        found.append(methods.on("frozen", name, sae, p, dictionary=name))
        for count in ITERATIONS:
            cold = fista(count)
            warm = fista(count, sae.encoder)
            found.append(Method(f"cold_{name}", "frozen", sae, cold, row))
            found.append(Method(f"warm_{name}", "refined", sae, warm, row))
        for count in SCREENS:
            pursuit = ScreenedPursuit(source.sparsity, screens=count)
            screened: dict[str, Any] = {**row, "screens": count}
            found.append(Method(f"screened_{name}", "pursuit", sae, pursuit, screened))
    return found + [
        Method("fista_oracle", "oracle", Oracle(), fista(count)) for count in ITERATIONS
    ]


def by_products(rows: Lines) -> list[Row]:
    """The codes on SAEs' dictionaries with a cost, and these costs in products with the dictionary.

    A step of FISTA takes two products, and the first from zero takes one.
    """

    def cost(row: Row) -> float:
        products = 2 * (row.get("iterations") or 0)
        if row.get("start") == "cold":
            return products - 1
        k = row["sparsity"]
        screens = row.get("screens")
        sae = catalogue.paper_sae(row["dictionary"].removeprefix("tuned_"), sparsity=k)
        encoder: Any = ScreenedPursuit(k, screens=screens) if screens else sae.encoder
        size = row["input_dim"], row["num_latents"]
        return encoder.flops(*size) / (2 * math.prod(size)) + products

    found = [
        row
        | {
            "products": cost(row),
            "codes": "screens" if row.get("screens") else row.get("start") or "own",
        }
        for row in rows
        if row["family"] != "oracle"
    ]
    return [row for row in found if row["inference"] != "lasso" and row["products"] > 0]


BENCH = Bench(
    __name__,
    "Warm start from the encoder",
    _methods,
    presets(Tuned, paper={"num_latents": WIDTHS}),
    drawings.along("iterations", ("mcc_ood", "relative_gap_id"), dash="start")
    | drawings.along(
        "products", _SCORES, by_products, CELL, line="codes", panel="dictionary"
    ),
    varies=("iterations", "start", "screens"),
)
