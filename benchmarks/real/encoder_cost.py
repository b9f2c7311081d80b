"""What do codes of a real model's activations cost, and how many nats does each save?

Codes held-out activations on each dictionary in many ways, most of them at one mean L0, and puts
the reconstructions back into the model that was recorded, as `downstream` does:

  own, own_refit    the SAE's codes, and least squares on their supports
  screened_pursuit  `ScreenedPursuit`, named by its screens and its candidates for each atom
  batch_pursuit     `BatchPursuit` likewise: twice as many atoms, pruned by one threshold
  omp, omp_pruned   orthogonal matching pursuit among all atoms; of twice as many, pruned likewise
  fista             iterations of FISTA, then least squares on codes above one threshold
  lasso, ...        the certified lasso, least squares on its supports, and pruned from twice the L0
  mp, ...           any other codes of `downstream`, and any encoder of `sae_gap.encoders` without
                    parameters: with k, and with the λ at which the lasso has k; its own L0 may
                    differ

A row has the loss in nats and FVU, and what the codes cost: `products` are multiply-adds relative
to one product with the dictionary, which is what an encoder costs, with the Gram matrix of all
atoms at hand for screened pursuits, and without it for the full one; `processor` is the time of one
thread of a CPU relative to the SAE's own encoder, the median of five runs; `seconds` are for 1,000
samples on all cores. `objective_gap` is by how much their lasso objective is above the certified
optimum of the same L0, relative to it, and `shared` the share of the full pursuit's support that
they have.
Thresholds are found on rows that SAEs learn from. Writes rows, summary.csv and a figure of each
dictionary under <results_dir>/encoder_cost/. A run that was stopped goes on with the same command.

  python -m sae_gap encoder_cost --recording=FOLDER --layer=10 --sae=FIRST,SECOND --l0=32
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import PutBack
from sae_gap import figures
from sae_gap.analysis import tables
from sae_gap.analysis.tables import Table, table
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.pursuit import OMP
from sae_gap.encoders.refined import AtWeight, Pruned
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit
from sae_gap.learners.learner import Learner
from sae_gap.measure.methods import check_codes, finite, methods_of, refit, study_of
from sae_gap.metrics import nats
from sae_gap.metrics.cost import cost_at, processor_time
from sae_gap.storage import results
from sae_gap.storage.results import Row
from sae_gap.study.runner import run
from sae_gap.study.study import Method

NAME = "encoder_cost"
FAMILIES = ("own", "screened_pursuit", "batch_pursuit", "omp", "fista", "lasso")
NAMED = ("mp", "gradient_pursuit")
# Screens, and the candidates of each for every atom of the pursuit.
SCREENS = ((1, 1), (1, 2), (1, 4), (1, 16), (2, 1), (2, 2), (2, 4), (3, 2))
ITERATIONS = (1, 2, 5, 10, 20, 50)
COLUMNS = (
    "dictionary codes products processor seconds l0 fvu kl delta_ce objective_gap shared "
    "own_certificate"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostOptions(PutBack):
    """The options of `encoder_cost`."""

    l0: int = option(32, "Mean L0 of all codes but those of encoders.", least=1)
    codes: tuple[str, ...] = option((*FAMILIES, *NAMED), "Families of codes, and encoders.")
    tokens: int = option(2_048, "Held-out tokens to run, rounded up to whole documents.", least=1)

    def __post_init__(self):
        super().__post_init__()
        check_codes([name for name in self.codes if name not in FAMILIES])


def ways(
    learner: Learner, k: int, lam: float, denser: float, named: Sequence[str] = NAMED
) -> Iterator[Method]:
    """All ways to code on a dictionary with k atoms a sample, with the signs of its codes; screened
    pursuits have only non-negative codes. `lam` and `denser` are the lasso's λ at an L0 of k and of
    twice as many; `named` are further encoders.
    """
    nonneg = not learner.signed

    def way(codes: str, family: str, encoder: Encoder, **varied: Any) -> Method:
        row = {"codes": codes, "level": k, **dict.fromkeys(("screens", "breadth", "iterations"))}
        return Method(codes, family, learner, encoder, row | varied)

    solved = Lasso(lam, nonneg=nonneg)
    for name in ("own", "own_refit", *named):
        for method in methods_of(learner, (name,), k):
            found = method.encoder
            if isinstance(found, AtWeight):
                found = dataclasses.replace(found, lasso=solved)
            yield way(name, name if name in named else "own", found)
    for screens, breadth in SCREENS if nonneg else ():
        varied = {"screens": screens, "breadth": breadth}
        plain = ScreenedPursuit(k, breadth, screens)
        pruned = BatchPursuit(k, breadth, screens, l0=float(k))
        for one in (plain, pruned):
            yield way(f"{one.name}_{screens}x{breadth}", one.name, one, **varied)
    yield way("omp", "omp", refit(OMP(k, nonneg=nonneg)))
    yield way(
        "omp_pruned", "omp", Pruned(refit(OMP(twice(learner, k), nonneg=nonneg)), k, nonneg=nonneg)
    )
    for count in ITERATIONS:
        few = Lasso(lam, tol=None, max_iterations=count, nonneg=nonneg)
        kept = Pruned(few, k, "magnitude", nonneg)
        yield way(f"fista_{count}", "fista", kept, iterations=count)
    yield way("lasso", "lasso", solved)
    yield way("lasso_refit", "lasso", refit(solved))
    more = refit(Lasso(denser, nonneg=nonneg))
    yield way("lasso_pruned", "lasso", Pruned(more, k, nonneg=nonneg))


def twice(learner: Learner, k: int) -> int:
    """Number of atoms before they are pruned to k."""
    return min(2 * k, learner.ready.decoder.shape[1])  # type: ignore[union-attr]


def measure(options: CostOptions) -> list[Row]:
    """Codes everything, or reads what is stored; writes the table as a file, and the figures.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    folder = options.folder(NAME)
    named = [name for name in options.codes if name not in FAMILIES]
    source, saes = options.begin((options.l0,))
    store, rows = results.Store(folder), []
    for learner in (sae.given for sae in saes):
        first = [
            Method("weight", "", learner, Lasso(l0=l0, nonneg=not learner.signed), {"level": l0})
            for l0 in (options.l0, twice(learner, options.l0))
        ]
        study = study_of(NAME, (source,), first, metrics=())
        found = {row["level"]: row["lam"] for row in run(study, store)}
        lam, denser = found[options.l0], found[twice(learner, options.l0)]
        every = ways(learner, options.l0, lam, denser, named)
        chosen = [method for method in every if method.family in options.codes]
        metrics = nats.METRIC, cost_at(lam, options.l0), processor_time()
        study = study_of(NAME, (source,), chosen, *metrics, calibrate_on="train")
        mine = finite(run(study, store))
        rows += [row | {"lam": lam} for row in mine]
        figures.save(figures.loss_by_cost(mine), folder, learner.name.replace("/", "_"))
    tables.write_table(folder, "summary.csv", rows)
    return rows


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """A table for each dictionary, sorted by the cost of codes."""
    return [
        table(
            f"Codes on {name} at a mean L0 of {lines[0]['level']}",
            COLUMNS,
            sorted(lines, key=lambda row: (row["products"] or np.inf, row["kl"])),
        )
        for (name,), lines in results.grouped(rows, ("dictionary",)).items()
    ]


def main(options: CostOptions) -> None:
    rows = measure(options)
    print(*tables_of(rows), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
