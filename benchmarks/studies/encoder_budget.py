"""With a good dictionary in hand, how small does the amortisation gap become, and at what cost?

Trains encoders of every family on the certified codes of one dictionary, and holds them against
FISTA and ISTA cut short, a greedy pursuit and the certified lasso on that same dictionary: the gap
and the recovery, in and out of distribution, beside the floating-point operations a sample. Writes
rows, summary.csv, a figure and a page under <results_dir>/encoder_budget/ and prints the table.

  python -m sae_gap encoder_budget --dictionary=oracle
  python -m sae_gap encoder_budget --dictionary=dl_fista --num_latents=1000
"""

from typing import Any

from benchmarks.harness import Bench, Preset, drawings, frozen, methods, option, presets
from sae_gap.encoders import (
    FISTA,
    ISTA,
    LISTA,
    OMP,
    JumpReLU,
    Lasso,
    ReLU,
    ScreenedPursuit,
    TopK,
)
from sae_gap.learners import Amortised, Lista, Oracle
from sae_gap.storage import CELL
from sae_gap.study import Method

ITERATIONS = (1, 2, 5, 10, 20, 50, 100)


@frozen
class Budget(Preset):
    """A preset with the dictionary that all encoders share."""

    without = ("data",)
    dictionary: str = option("oracle", "The learner that the dictionary comes from.")


def _methods(source: Any, p: Any) -> list[Method]:
    base = methods.learner_of(p.dictionary, [], source, p)
    k = source.sparsity
    if isinstance(base, Oracle) and source.width is not None:
        raise ValueError(
            "--width is of a dictionary that is learned; give --dictionary=online_dl with it, or "
            "leave it out."
        )
    # A window about as wide as the codes' spread: the published 1e-3 holds too few of them for the
    # thresholds to learn by.
    trained = {"relu": ReLU(), "topk": TopK(k), "jumprelu": JumpReLU(p.lam, p.lam)} | {
        f"lista_{depth}": LISTA(depth, p.lam) for depth in (1, 2, 4, 8, 16)
    }
    # An epoch of the paper's SAEs is long enough for two of these.
    epochs = max(1, round(0.4 * p.epochs))
    amortised = Amortised(tuple(trained.values()), p.lam, base=base, num_steps=epochs)
    published = Lista(base=base, lam=p.lam, num_steps=epochs)
    found = []

    def add(name, kind, encoder, learner=base, **row):
        cost = trained.get(name, encoder).flops(
            source.input_dim, source.width or source.num_latents
        )
        if cost is not None:
            row["flops"] = cost
        found.append(Method(name, kind, learner, encoder, row))

    for name, member in zip(trained, amortised.members, strict=True):
        add(name, member.name, member, amortised)
    add(
        "lista_published",
        "lista",
        published.encoder,
        published,
        inference="lista_published",
    )
    for kind in (FISTA, ISTA):
        for count in ITERATIONS:
            add(f"{kind.name}_{count}", kind.name, kind(p.lam, iterations=count))
    for one in (ScreenedPursuit(k), OMP(k), Lasso(p.lam)):
        add(one.name, one.name, one)
    return found


BENCH = Bench(
    __name__,
    "Encoder budget",
    _methods,
    presets(Budget, smoke={"epochs": 12}),
    drawings.plain("budget", ("dictionary", *CELL)),
    {
        "Encoders": "flops relative_gap_id relative_gap_ood mcc_id mcc_ood l0_above_id "
        "encode_seconds"
    },
    varies=("dictionary", "flops"),
)
