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
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.pursuit import OMP
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.screened_pursuit import ScreenedPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised, Lista
from sae_gap.learners.learner import Learner
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.spams_train_dl import SpamsTrainDL
from sae_gap.storage.results import CELL
from sae_gap.study.study import Method

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
    product = 2 * source.input_dim * width

    def costs(products):
        """Of the products with matrices for a sample, all else being small; a layer or an iteration
        is two, less the first.
        """
        return {"flops": products * product}

    layers = {name: 2 * one.coordinates.get("depth", 1) - 1 for name, one in trained.items()}
    found = [
        Method(name, one.name, amortised, one, costs(layers[name]))
        for name, one in zip(trained, amortised.members, strict=True)
    ]
    # Its layers hold products of num_latents by num_latents.
    full = costs(1 + (published.encoder.depth - 1) * (1 + width / source.input_dim))
    found.append(
        Method(
            "lista_published",
            "lista",
            published,
            published.encoder,
            {"inference": "lista_published", **full},
        )
    )
    for kind in ("fista", "ista"):
        steps = [
            Lasso(p.lam, tol=None, max_iterations=count, momentum=kind == "fista")
            for count in ITERATIONS
        ]
        found += [
            Method(
                f"{kind}_{one.max_iterations}", kind, base, one, costs(2 * one.max_iterations - 1)
            )
            for one in steps
        ]
    screened, omp = ScreenedPursuit(source.sparsity), OMP(source.sparsity)
    cost = {"flops": screened.flops(source.input_dim, width)}
    found.append(Method(screened.name, screened.name, base, screened, cost))
    # The certified lasso and the full pursuit take what a sample needs, which is not counted.
    found.append(Method(omp.name, omp.name, base, omp))
    return [*found, Method("lasso", "lasso", base, Lasso(p.lam))]


BENCH = Bench(
    "encoder_budget",
    "Encoder budget",
    __doc__,
    _methods,
    {"smoke": Budget(**vars(SMOKE) | {"epochs": 12}), "quick": Budget()},
    varies=("dictionary", "flops"),
    figures=drawings.plain("budget", ("dictionary", *CELL)),
    tables={
        "Encoders": (
            *("flops", "relative_gap_id", "relative_gap_ood", "mcc_id", "mcc_ood"),
            *("l0_above_id", "encode_seconds"),
        )
    },
    without=("data",),
)
