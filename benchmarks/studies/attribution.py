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

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import Bench
from benchmarks.harness.methods import Tuned
from benchmarks.harness.preset import SMOKE, Preset, grid
from sae_gap.data import Source
from sae_gap.encoders import OMP, Encoder, Lasso, LeastSquares, OnSupport
from sae_gap.learners import Oracle
from sae_gap.study import Method

TUNED = ("relu", "topk", "jumprelu", "mp", "batchtopk", "matryoshka", "gated")
# Weights of the lasso in shares of the study's.
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
_SIZES = ("num_latents", "num_samples", "sparsity")


def one_at_a_time(p: Preset) -> list[Source]:
    """The sources of a preset in which at most one size differs from the first of its values."""
    base = dataclasses.replace(p, **{size: getattr(p, size)[:1] for size in _SIZES})
    lines = [dataclasses.replace(base, **{size: getattr(p, size)}) for size in _SIZES]
    return list(dict.fromkeys(source for line in lines for source in grid(line)))


def _methods(source, p):
    # Codes that do without a dictionary's own encoder.
    best: dict[str, Encoder] = {f"lasso_{weight:g}": Lasso(weight * p.lam) for weight in WEIGHTS}
    best["lasso_fit"] = OnSupport(Lasso(p.lam), 0.0)
    best["omp"] = OMP(min(source.sparsity, source.input_dim), nonneg=True)
    learners: dict[str, Any] = {**methods.with_tuned(source, p), "oracle": Oracle()}
    found = []
    for name, learner in learners.items():
        row = {"dictionary": name}
        if name != "oracle":
            own = learner.encoder
            found += [
                Method(f"sae_{name}", "sae", learner, own, row),
                Method(f"support_{name}", "support", learner, OnSupport(own, p.lam), row),
                Method(f"least_squares_{name}", "support", learner, LeastSquares(own), row),
            ]
        found += [
            methods.coded(f"{codes}_{name}", learner, p, encoder, dictionary=name, inference=codes)
            for codes, encoder in best.items()
        ]
    return found


BENCH = Bench(
    "attribution",
    "Where the loss lies",
    __doc__,
    _methods,
    {
        "smoke": Tuned(**vars(SMOKE) | {"num_samples": (200, 100)}, tuned=("batchtopk",)),
        "quick": Tuned((100, 50, 200), (10, 5, 20), (5_000, 1_000, 20_000), tuned=TUNED),
        "paper": Tuned(
            (100, 50, 200, 500, 1_000),
            (10, 2, 5, 20, 50),
            (5_000, 100, 500, 1_000, 10_000, 20_000, 50_000, 100_000),
            tuned=TUNED,
        ),
    },
    figures={
        f"shares_{score}": drawings.parts(score, "encoder_shares", ())
        for score in ("mcc_ood", "mcc_id", "support_f1_ood")
    },
    tables={},
    parts=True,
    sources=one_at_a_time,
    without=("data",),
)
