"""With a good dictionary in hand, how small does the amortisation gap become, and at what cost?

Trains encoders of every family on the certified codes of one dictionary, and holds them against
FISTA and ISTA cut short, a greedy pursuit and the certified lasso on that same dictionary: the gap
and the recovery, in and out of distribution, beside the floating-point operations a sample. Writes
rows, summary.csv, a figure and a page under <results_dir>/encoder_budget/ and prints the table.

  python -m sae_gap encoder_budget --dictionary=oracle
  python -m sae_gap encoder_budget --dictionary=dl_fista --num_latents=1000
"""

import dataclasses
from collections.abc import Callable

from benchmarks.harness import drawings, learners
from benchmarks.harness.bench import Bench
from benchmarks.harness.preset import SMOKE, Preset
from benchmarks.options import option
from sae_gap.encoders import LISTA, OMP, JumpReLU, Lasso, ReLU, ScreenedPursuit, TopK
from sae_gap.learners import Amortised, Learner, Lista, Oracle, SpamsTrainDL
from sae_gap.storage import CELL
from sae_gap.study import Method

DEPTHS = (1, 2, 4, 8, 16)
ITERATIONS = (1, 2, 5, 10, 20, 50, 100)
# Where the dictionary comes from, by name.
DICTIONARIES: dict[str, Callable[[Preset], Learner]] = {
    "oracle": lambda p: Oracle(),
    "dl_fista": learners.dl_fista,
    "online_dl": learners.online,
    "spams": lambda p: SpamsTrainDL(p.lam),
}


@dataclasses.dataclass(frozen=True)
class Budget(Preset):
    """A preset with the dictionary that all encoders share."""

    dictionary: str = option(
        "oracle",
        f"Where the dictionary comes from, one of {', '.join(DICTIONARIES)}.",
        choices=tuple(DICTIONARIES),
    )


def encoders(sparsity, lam):
    """The encoders to train, by method."""
    lista = {f"lista_{depth}": LISTA(depth, lam) for depth in DEPTHS}
    # A window about as wide as the codes' spread: the published 1e-3 holds too few of them for the
    # thresholds to learn by.
    return {"relu": ReLU(), "topk": TopK(sparsity), "jumprelu": JumpReLU(lam, lam), **lista}


def _methods(source, p):
    base = DICTIONARIES[p.dictionary](p)
    if isinstance(base, Oracle) and source.width is not None:
        raise ValueError(
            "--width is of a dictionary that is learned; give --dictionary=online_dl with it, or "
            "leave it out."
        )
    trained = encoders(source.sparsity, p.lam)
    # An epoch of the paper's SAEs is long enough for two of these.
    epochs = max(1, round(0.4 * p.epochs))
    amortised = Amortised(tuple(trained.values()), p.lam, base=base, num_steps=epochs)
    published = Lista(base=base, lam=p.lam, num_steps=epochs)
    width = source.num_latents if isinstance(base, Oracle) else source.width or source.num_latents

    def method(name, kind, learner, encoder, **row):
        cost = trained.get(name, encoder).flops(source.input_dim, width)
        return Method(name, kind, learner, encoder, row | ({} if cost is None else {"flops": cost}))

    found = [
        method(name, one.name, amortised, one)
        for name, one in zip(trained, amortised.members, strict=True)
    ]
    own = "lista_published"
    found.append(method(own, "lista", published, published.encoder, inference=own))
    for kind in ("fista", "ista"):
        steps = [
            Lasso(p.lam, tol=None, max_iterations=count, momentum=kind == "fista")
            for count in ITERATIONS
        ]
        found += [method(f"{kind}_{one.max_iterations}", kind, base, one) for one in steps]
    k = source.sparsity
    untrained = ScreenedPursuit(k), OMP(k), Lasso(p.lam)
    return found + [method(one.name, one.name, base, one) for one in untrained]


BENCH = Bench(
    "encoder_budget",
    "Encoder budget",
    __doc__,
    _methods,
    {"smoke": Budget(**vars(SMOKE) | {"epochs": 12}), "quick": Budget()},
    varies=("dictionary", "flops"),
    figures=drawings.plain("budget", ("dictionary", *CELL)),
    tables={
        "Encoders": "flops relative_gap_id relative_gap_ood mcc_id mcc_ood l0_above_id "
        "encode_seconds"
    },
    without=("data",),
)
