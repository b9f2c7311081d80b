"""For which SAEs is it the encoder, for which the dictionary, and at which sizes?

Splits the distance of each SAE to the oracle into values, support and dictionary, along the number
of latents, of samples and of active latents: one of these sizes varies at a time, and the first
value of each is where the others stay. The paper's four SAEs have its options and number of epochs;
tuned ones take as many gradient steps at every size. For each score the best of these codes count:
the own ones, other values on their supports, the certified lasso at four weights, least squares on
its supports, and orthogonal matching pursuit.

  python -m sae_gap attribution
  python -m sae_gap attribution --preset=paper
"""

import dataclasses
from typing import Any

from benchmarks.harness import Bench, Tuned, drawings, methods, presets
from sae_gap.data import Source
from sae_gap.encoders import OMP, Lasso, OnSupport
from sae_gap.learners import Oracle
from sae_gap.study import Method

# Weights of the lasso in shares of the study's.
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
_SIZES = ("num_latents", "num_samples", "sparsity")
TUNED = {
    "tuned": ("relu", "topk", "jumprelu", "mp", "batchtopk", "matryoshka", "gated")
}


class OneAtATime(Tuned):
    """A preset of which at most one size differs from the first of its values."""

    without = ("data",)

    def sources(self) -> list[Source]:
        base = dataclasses.replace(
            self, **{size: getattr(self, size)[:1] for size in _SIZES}
        )
        lines = [
            dataclasses.replace(base, **{size: getattr(self, size)}) for size in _SIZES
        ]
        return list(
            dict.fromkeys(source for line in lines for source in Tuned.sources(line))
        )


def _methods(source: Any, p: Any) -> list[Method]:
    # Codes that do without a dictionary's own encoder.
    best = {f"lasso_{weight:g}": Lasso(weight * p.lam) for weight in WEIGHTS} | {
        "lasso_fit": OnSupport(Lasso(p.lam), 0.0),
        "omp": OMP(min(source.sparsity, source.input_dim), nonneg=True),
    }
    found = []
    for name, learner in {**methods.with_tuned(source, p), "oracle": Oracle()}.items():
        if name != "oracle":
            found += [
                methods.on(kind, name, learner, p, dictionary=name)
                for kind in ("sae", "support", "least_squares")
            ]
        found += [
            methods.coded(
                f"{codes}_{name}", learner, p, encoder, dictionary=name, inference=codes
            )
            for codes, encoder in best.items()
        ]
    return found


BENCH = Bench(
    __name__,
    "Where the loss lies",
    _methods,
    presets(
        OneAtATime,
        smoke={"num_samples": (200, 100), "tuned": ("batchtopk",)},
        quick=TUNED
        | {
            "num_latents": (100, 50, 200),
            "sparsity": (10, 5, 20),
            "num_samples": (5_000, 1_000, 20_000),
        },
        paper=TUNED
        | {
            "num_latents": (100, 50, 200, 500, 1_000),
            "sparsity": (10, 2, 5, 20, 50),
            "num_samples": (5_000, 100, 500, 1_000, 10_000, 20_000, 50_000, 100_000),
        },
    ),
    figures={
        f"shares_{score}": drawings.parts(score, "encoder_shares", ())
        for score in ("mcc_ood", "mcc_id", "support_f1_ood")
    },
    tables={},
    parts=True,
)
